use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Who asks for something to boot: a kind of firmware, or a boot loader that was loaded before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum BootClient {
    /// The boot loader iPXE, of whatever architecture.
    Ipxe,
    /// A PC's BIOS.
    Bios,
    /// UEFI on 32-bit x86.
    EfiX86,
    /// UEFI on x86-64.
    EfiX86_64,
    /// UEFI on 32-bit ARM.
    EfiArm,
    /// UEFI on 64-bit ARM.
    EfiArm64,
    /// UEFI on 64-bit RISC-V.
    EfiRiscv64,
    /// UEFI on 64-bit LoongArch.
    EfiLoongarch64,
    /// A PC's BIOS that loads by HTTP.
    HttpBios,
    /// UEFI on 32-bit x86 that loads by HTTP.
    HttpEfiX86,
    /// UEFI on x86-64 that loads by HTTP.
    HttpEfiX86_64,
    /// UEFI on 32-bit ARM that loads by HTTP.
    HttpEfiArm,
    /// UEFI on 64-bit ARM that loads by HTTP.
    HttpEfiArm64,
    /// UEFI on 64-bit RISC-V that loads by HTTP.
    HttpEfiRiscv64,
    /// UEFI on 64-bit LoongArch that loads by HTTP.
    HttpEfiLoongarch64,
    /// U-Boot on 32-bit ARM.
    UbootArm,
    /// U-Boot on 64-bit ARM.
    UbootArm64,
    /// OPAL on POWER.
    PowerOpal,
    /// Any other one that asks for something to boot.
    Other,
}

impl BootClient {
    /// Each with its name, and its numbers as an architecture (IANA, "Processor Architecture Types"; RFC 4578 had x86-64
    /// as 9, which some firmware still says).
    pub const ALL: [(&'static str, Self, &'static [u16]); 19] = [
        ("ipxe", Self::Ipxe, &[]),
        ("bios", Self::Bios, &[0]),
        ("efi-x86", Self::EfiX86, &[6]),
        ("efi-x86_64", Self::EfiX86_64, &[7, 9]),
        ("efi-arm", Self::EfiArm, &[10]),
        ("efi-arm64", Self::EfiArm64, &[11]),
        ("efi-riscv64", Self::EfiRiscv64, &[27]),
        ("efi-loongarch64", Self::EfiLoongarch64, &[39]),
        ("http-bios", Self::HttpBios, &[20]),
        ("http-efi-x86", Self::HttpEfiX86, &[15]),
        ("http-efi-x86_64", Self::HttpEfiX86_64, &[16]),
        ("http-efi-arm", Self::HttpEfiArm, &[18]),
        ("http-efi-arm64", Self::HttpEfiArm64, &[19]),
        ("http-efi-riscv64", Self::HttpEfiRiscv64, &[28]),
        ("http-efi-loongarch64", Self::HttpEfiLoongarch64, &[40]),
        ("uboot-arm", Self::UbootArm, &[21]),
        ("uboot-arm64", Self::UbootArm64, &[22]),
        ("power-opal", Self::PowerOpal, &[14]),
        ("other", Self::Other, &[]),
    ];

    /// The one whose architecture has this number.
    pub fn of_architecture(number: u16) -> Option<Self> {
        Self::ALL.iter().find(|(_, _, numbers)| numbers.contains(&number)).map(|(_, client, _)| *client)
    }

    /// Its name.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, client, _)| *client == self).map_or("", |(word, ..)| word)
    }

    /// Whether it loads by HTTP, and nothing else.
    pub fn is_http(self) -> bool {
        self.word().starts_with("http-")
    }
}

impl fmt::Display for BootClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Not the name of anything that boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is none of the architectures that are known")]
pub struct ParseBootClientError;

impl FromStr for BootClient {
    type Err = ParseBootClientError;

    fn from_str(text: &str) -> Result<Self, ParseBootClientError> {
        let named = Self::ALL.iter().find(|(word, ..)| *word == text);
        named.map(|(_, client, _)| *client).ok_or(ParseBootClientError)
    }
}

impl From<BootClient> for String {
    fn from(client: BootClient) -> Self {
        client.word().to_owned()
    }
}

impl TryFrom<String> for BootClient {
    type Error = ParseBootClientError;

    fn try_from(text: String) -> Result<Self, ParseBootClientError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_and_numbers_of_its_own() {
        let mut numbers: Vec<u16> = Vec::new();
        for (word, client, own) in BootClient::ALL {
            assert_eq!((word.parse(), client.word()), (Ok(client), word));
            for number in own {
                assert_eq!(BootClient::of_architecture(*number), Some(client));
                assert!(!numbers.contains(number), "{number} is there twice");
                numbers.push(*number);
            }
        }
        assert_eq!(BootClient::of_architecture(0xffff), None);
    }
}
