//! Captures for Wireshark, and what it reads there.

use std::{fmt::Write as _, process::Command};

/// Datagrams of ESP by AES-GCM, read with these keys (SPI, key and salt): the fields' values for each datagram.
pub(crate) fn wireshark(datagrams: &[Vec<u8>], keys: &[(u32, Vec<u8>)], fields: &[&str]) -> Vec<Vec<String>> {
    let spi = keys.first().map_or(0, |(spi, _)| *spi);
    let directory = std::env::temp_dir().join(format!("viaduct-wire-{}-{spi:x}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("esp.pcap");
    std::fs::write(&file, capture(datagrams)).unwrap();
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-r", file.to_str().unwrap(), "-o", "esp.enable_encryption_decode:TRUE"]);
    tshark.args(["-o", "udp.check_checksum:FALSE", "-T", "fields"]).env("HOME", &directory);
    for (spi, material) in keys {
        let mut association = format!("uat:esp_sa:\"IPv4\",\"*\",\"*\",\"0x{spi:08x}\",");
        association.push_str("\"AES-GCM with 16 octet ICV [RFC4106]\",\"0x");
        material.iter().for_each(|byte| write!(association, "{byte:02x}").unwrap());
        tshark.args(["-o", &format!("{association}\",\"NULL\",\"\"")]);
    }
    for field in fields {
        tshark.args(["-e", field]);
    }
    let output = tshark.output().unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| line.split('\t').map(str::to_owned).collect());
    lines.collect()
}

/// A capture of these datagrams, each with the implicit IV written out after ESP's header, and at port 4500, where
/// Wireshark expects ESP in UDP.
fn capture(datagrams: &[Vec<u8>]) -> Vec<u8> {
    let word = |number: usize| u16::try_from(number).unwrap().to_be_bytes();
    let mut file = Vec::new();
    for number in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(number.to_le_bytes());
    }
    for datagram in datagrams {
        let (header, rest) = datagram.split_at(8);
        let esp = [header, &[0; 4], &header[4..], rest].concat();
        let mut packet = [&[0; 12][..], &[8, 0, 0x45, 0]].concat();
        packet.extend(word(28 + esp.len()));
        packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]);
        packet.extend([word(4_500), word(4_500), word(8 + esp.len()), [0, 0]].concat());
        packet.extend(esp);
        let length = u32::try_from(packet.len()).unwrap();
        for number in [0, 0, length, length] {
            file.extend(number.to_le_bytes());
        }
        file.extend(packet);
    }
    file
}
