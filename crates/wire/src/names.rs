/// Names as options of DHCP and router advertisements have them (RFC 1035, section 3.1, without compression). A name that is none is left out.
pub fn dns_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in names {
        let labels = || name.trim_end_matches('.').split('.');
        if name.len() > 253 || labels().any(|label| label.is_empty() || label.len() > 63) {
            continue;
        }
        for label in labels() {
            bytes.push(u8::try_from(label.len()).unwrap_or(0));
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
    }
    bytes
}
