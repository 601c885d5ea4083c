//! Vnets as Xen's `xm vnet-create` took them: `(vnet (id 97) (bridge vnet97) (vnetif vnif97) (security none))`, with
//! comments from `#` to the end of the line, fields in any order, and those that nobody knows passed over.

use viaduct_types::{IfName, VnetId};

/// A vnet of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SxpVnet {
    /// Its identity everywhere.
    pub id: VnetId,
    /// Its id as it was written: names are made of it.
    pub id_text: String,
    /// As written; `vnet` and the id otherwise.
    pub bridge: Option<IfName>,
    /// The device that leads to the other hosts; `vnif` and the id otherwise.
    pub vnetif: Option<IfName>,
    /// `none`, `auth` or `conf`, if one is written.
    pub security: Option<SxpSecurity>,
}

/// A level of security by the word in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SxpSecurity {
    /// `none`
    None,
    /// `auth`
    Auth,
    /// `conf`
    Conf,
}

impl SxpSecurity {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Auth => "auth",
            Self::Conf => "conf",
        }
    }
}

/// The vnets of a file, and what is to be said about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SxpFile {
    /// In their order.
    pub vnets: Vec<SxpVnet>,
    /// With the line that each is about.
    pub hints: Vec<(usize, String)>,
}

/// What is wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct SxpError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// Deeper than anybody nests.
const DEEPEST: usize = 16;

/// Reads a file.
///
/// # Errors
/// At the first thing that is wrong.
pub fn read(text: &str) -> Result<SxpFile, SxpError> {
    let mut file = SxpFile::default();
    for node in nodes(text)? {
        vnet(&node, &mut file)?;
    }
    if file.vnets.is_empty() {
        let message = "there is no vnet: write (vnet (id 97) (bridge vnet97))".to_owned();
        return Err(SxpError { line: 1, message });
    }
    Ok(file)
}

/// What stands in a file, whatever it means.
pub(crate) fn nodes(text: &str) -> Result<Vec<Node>, SxpError> {
    let mut parser = Parser { rest: text, line: 1 };
    std::iter::from_fn(|| parser.next(0).transpose()).collect()
}

/// A word, or what stands in parentheses, with the line that it begins in.
pub(crate) enum Node {
    Atom(usize, String),
    List(usize, Vec<Self>),
}

impl Node {
    pub(crate) fn line(&self) -> usize {
        match self {
            Self::Atom(line, _) | Self::List(line, _) => *line,
        }
    }
}

fn wrong(line: usize, message: impl Into<String>) -> SxpError {
    SxpError { line, message: shown(&message.into()) }
}

/// What is in a file must not reach a terminal as it stands.
fn shown(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

fn vnet(node: &Node, file: &mut SxpFile) -> Result<(), SxpError> {
    let Node::List(line, nodes) = node else {
        return Err(wrong(node.line(), "a vnet stands in parentheses: (vnet (id 97))"));
    };
    let Some((Node::Atom(_, word), fields)) = nodes.split_first() else {
        return Err(wrong(*line, "a vnet begins with the word vnet: (vnet (id 97))"));
    };
    // The second is how the original's own tool said it.
    if word != "vnet" && word != "vnet.add" {
        return Err(wrong(*line, format!("`{word}` is no vnet: {}", instead(word))));
    }
    let (mut id, mut bridge, mut vnetif, mut security) = (None, None, None, None);
    for field in fields {
        let (line, name, value) = match field {
            Node::List(line, parts) => match parts.as_slice() {
                [Node::Atom(_, name), Node::Atom(_, value)] => (*line, name.as_str(), value.as_str()),
                [Node::Atom(_, name), ..]
                    if !["id", "bridge", "vnetif", "security"].contains(&name.as_str()) =>
                {
                    file.hints.push((*line, unknown(name)));
                    continue;
                }
                _ => return Err(wrong(*line, "a field has a name and one value: (bridge vnet97)")),
            },
            Node::Atom(line, text) => {
                return Err(wrong(*line, format!("`{text}` stands outside of a field: write (NAME {text})")));
            }
        };
        let twice = || wrong(line, format!("`{name}` is written twice"));
        let device = || {
            let what = |error| wrong(line, format!("`{value}` is no device's name: {error}"));
            value.parse::<IfName>().map_err(what)
        };
        match name {
            "id" if id.is_some() => return Err(twice()),
            "bridge" if bridge.is_some() => return Err(twice()),
            "vnetif" if vnetif.is_some() => return Err(twice()),
            "security" if security.is_some() => return Err(twice()),
            "id" => id = Some((vnet_id(value).map_err(|message| wrong(line, message))?, value.to_owned())),
            "bridge" => bridge = Some(device()?),
            "vnetif" => vnetif = Some(device()?),
            "security" => {
                security = Some(match value {
                    "none" => SxpSecurity::None,
                    "auth" => SxpSecurity::Auth,
                    "conf" => SxpSecurity::Conf,
                    _ => {
                        let message = format!("`{value}` is no level of security: write none, auth or conf");
                        return Err(wrong(line, message));
                    }
                });
            }
            _ => file.hints.push((line, unknown(name))),
        }
    }
    let Some((id, id_text)) = id else {
        return Err(wrong(*line, "this vnet has no id: write (id 97)"));
    };
    file.vnets.push(SxpVnet { id, id_text, bridge, vnetif, security });
    Ok(())
}

/// What does what another word of the original's did: its daemon took some of these in files, too.
fn instead(word: &str) -> &'static str {
    match word {
        "peer.add" | "peer.del" => {
            "hosts are known by their keys, and come and go by `viaduct peer add NAME --endpoint E --key K` and `viaduct peer delete NAME`"
        }
        "varp.mcaddr" => {
            "the group by which hosts find each other is one of `groups` in [discovery] of the configuration"
        }
        "vnet.del" => "`viaduct vnet delete ID` takes one away",
        "vif.add" | "vif.del" => "that a machine is here or not is said by `vn vif-add` and `vn vif-delete`",
        _ => "write (vnet …)",
    }
}

fn unknown(name: &str) -> String {
    match name {
        "vnif" => {
            "there is no field `vnif`, so it is passed over: `vnetif` is what names the device".to_owned()
        }
        _ => shown(&format!("the field `{name}` is not known and is passed over")),
    }
}

/// One to four hex digits, or up to eight groups of them, of which those that are missing are zeroes at the front.
pub fn vnet_id(text: &str) -> Result<VnetId, String> {
    let groups = text.split(':').count();
    let full =
        if (2..8).contains(&groups) { format!("{}{text}", "0:".repeat(8 - groups)) } else { text.to_owned() };
    full.parse().map_err(|error: viaduct_types::ParseVnetIdError| format!("`{text}` is no vnet id: {error}"))
}

/// The name of a vnet's device where none is written: `vnet` or `vnif` with the id as it was written, as xend made them; where that is
/// no device's name, with the id as short as it can be, and where that is none either, with the start and a hash of it.
pub fn device(start: &str, written: &str, id: VnetId) -> Option<IfName> {
    format!("{start}{written}").parse().ok().or_else(|| crate::names::numbered(start, &id.short()))
}

struct Parser<'t> {
    rest: &'t str,
    line: usize,
}

impl Parser<'_> {
    /// The next thing; none at the end.
    fn next(&mut self, depth: usize) -> Result<Option<Node>, SxpError> {
        self.skip();
        let line = self.line;
        let Some(first) = self.rest.chars().next() else { return Ok(None) };
        match first {
            '(' if depth == DEEPEST => Err(wrong(line, "this is nested deeper than anything that is known")),
            '(' => {
                self.rest = &self.rest[1..];
                let mut nodes = Vec::new();
                loop {
                    self.skip();
                    if let Some(rest) = self.rest.strip_prefix(')') {
                        self.rest = rest;
                        return Ok(Some(Node::List(line, nodes)));
                    }
                    match self.next(depth + 1)? {
                        Some(node) => nodes.push(node),
                        None => return Err(wrong(line, "the parenthesis that opens here is not closed")),
                    }
                }
            }
            ')' => Err(wrong(line, "this parenthesis closes nothing")),
            '"' | '\'' => {
                let inner = &self.rest[1..];
                let Some(end) = inner.find(first) else {
                    return Err(wrong(line, "the quotation that begins here does not end"));
                };
                let text = inner[..end].to_owned();
                self.line += text.matches('\n').count();
                self.rest = &inner[end + 1..];
                Ok(Some(Node::Atom(line, text)))
            }
            _ => {
                let ends = |c: char| c.is_whitespace() || "()#\"'".contains(c);
                let end = self.rest.find(ends).unwrap_or(self.rest.len());
                let (text, rest) = self.rest.split_at(end);
                self.rest = rest;
                Ok(Some(Node::Atom(line, text.to_owned())))
            }
        }
    }

    /// White space and comments.
    fn skip(&mut self) {
        loop {
            let trimmed = self.rest.trim_start();
            let space = &self.rest[..self.rest.len() - trimmed.len()];
            self.line += space.matches('\n').count();
            self.rest = trimmed;
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = self.rest.find('\n').map_or("", |end| &self.rest[end..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_s_example() {
        let file = read("(vnet (id 97) (bridge vnet97) (vnetif vnif97)\n      (security none))\n").unwrap();
        let vnet = SxpVnet {
            id: "97".parse().unwrap(),
            id_text: "97".to_owned(),
            bridge: Some("vnet97".parse().unwrap()),
            vnetif: Some("vnif97".parse().unwrap()),
            security: Some(SxpSecurity::None),
        };
        assert_eq!(file, SxpFile { vnets: vec![vnet], hints: vec![] });
    }

    #[test]
    fn the_original_s_typo_is_answered_with_a_hint() {
        let text =
            "# Vnet configuration for a vnet with id 0x99.\n(vnet (id 99)\n (vnif vnetif99) (security conf))";
        let file = read(text).unwrap();
        assert_eq!(file.vnets[0].vnetif, None);
        assert_eq!(file.vnets[0].security, Some(SxpSecurity::Conf));
        let [(3, hint)] = file.hints.as_slice() else { panic!("{:?}", file.hints) };
        assert!(hint.contains("`vnetif`"), "{hint}");
    }

    /// Xen's tools/vnet/examples: the three files of 2004 and those of 2006, of which the last has `vnif` for `vnetif`. Each began
    /// with comments, in one of which a command stood in quotation marks.
    #[test]
    fn the_original_s_own_files() {
        for (id, vnetif, device, security) in [
            ("97", "vnetif", "vnetif97", SxpSecurity::None),
            ("98", "vnetif", "vnetif98", SxpSecurity::Auth),
            ("99", "vnetif", "vnetif99", SxpSecurity::Conf),
            ("97", "vnetif", "vnif97", SxpSecurity::None),
            ("98", "vnetif", "vnif98", SxpSecurity::Auth),
            ("99", "vnif", "vnetif99", SxpSecurity::Conf),
        ] {
            let word = security.word();
            let text = format!(
                "# Made by 'xm vnet-create vnet{id}.sxp'.\n# (vnet\n\
                 (vnet (id {id}) (bridge vnet{id}) ({vnetif} {device}) (security {word}))\n"
            );
            let file = read(&text).unwrap();
            let is_known = vnetif == "vnetif";
            let vnet = SxpVnet {
                id: id.parse().unwrap(),
                id_text: id.to_owned(),
                bridge: Some(format!("vnet{id}").parse().unwrap()),
                vnetif: is_known.then(|| device.parse().unwrap()),
                security: Some(security),
            };
            assert_eq!(file.vnets, [vnet], "{text}");
            match file.hints.as_slice() {
                [] => assert!(is_known, "{text}"),
                [(3, hint)] => assert!(!is_known && hint.contains("`vnetif` is what names"), "{text}{hint}"),
                hints => panic!("{hints:?}"),
            }
        }
    }

    #[test]
    fn order_comments_quotes_and_what_is_unknown() {
        let text = "(vnet # so\n (security 'auth')(color blue)(shape (round yes) big)\n (id \"0000:0000:0000:0000:0000:0000:0000:0097\"))\
                    (vnet.add (id 1:2))";
        let file = read(text).unwrap();
        assert_eq!(file.vnets.len(), 2);
        assert_eq!(file.vnets[0].id, "97".parse().unwrap());
        assert_eq!(file.vnets[1].id, "0:0:0:0:0:0:1:2".parse().unwrap());
        assert_eq!(file.hints.len(), 2);
    }

    #[test]
    fn devices_have_names_whatever_the_form_of_the_id() {
        let name = |start, id: &str| device(start, id, vnet_id(id).unwrap()).unwrap().to_string();
        assert_eq!(name("vnet", "97"), "vnet97");
        assert_eq!(name("vnif", "0097"), "vnif0097");
        assert_eq!(name("vnif", "0000:0000:0000:0000:0000:0000:0000:0097"), "vnif97");
        assert_eq!(name("vnif", "0:97"), "vnif97");
        assert_eq!(name("vnet", "1:2"), "vnet1-0002");
        let long = ["dead:beef:1:2:3:4:5:6", "dead:beef:1:2:3:4:5:7"].map(|id| name("vnet", id));
        assert!(long[0] != long[1] && long.iter().all(|name| name.starts_with("vnetdead-")), "{long:?}");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, line, word) in [
            ("", 1, "no vnet"),
            ("(vnet (id 97)", 1, "not closed"),
            ("(vnet\n(id 97)))", 2, "closes nothing"),
            ("(vnet (id 0))", 1, "reserved"),
            ("(vnet (id 1))", 1, "reserved"),
            ("(vnet (id xyz))", 1, "hex digits"),
            ("(vnet\n\n(id 97)(id 98))", 3, "twice"),
            ("(vnet (bridge b))", 1, "no id"),
            ("(vnet (id 97) (bridge a-name-that-is-far-too-long))", 1, "device"),
            ("(vnet (id 97) (security weak))", 1, "none, auth or conf"),
            ("(vnet (id 97 98))", 1, "one value"),
            ("(vnet id 97)", 1, "outside"),
            ("vnet", 1, "parentheses"),
            ("(domain (id 97))", 1, "`domain`"),
            ("(vnet (id 97))\n(peer.add (addr 10.0.0.2))", 2, "viaduct peer add"),
            ("(varp.mcaddr (addr 224.10.0.9))", 1, "[discovery]"),
            ("(vnet.del (id 97))", 1, "viaduct vnet delete"),
            ("(vif.add (vnet 97) (vmac 02:00:00:00:00:01))", 1, "vn vif-add"),
            ("(vnet (id \"97))", 1, "quotation"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(error.message.contains(word), "{text}: {error}");
        }
        let deep = "(".repeat(100_000);
        assert!(read(&deep).unwrap_err().message.contains("deeper"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[()#'\" \n0-9a-f:vneti]{0,200}") {
            let _ = read(&text);
        }
    }
}
