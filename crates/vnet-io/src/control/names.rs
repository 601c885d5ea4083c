//! Names of hosts are looked up by somebody else, on the other end of a line: the engine opens no files but its own.

use std::{collections::BTreeMap, io, net::SocketAddr};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{mpsc, oneshot},
};

/// So many may wait to be asked for.
const WAITING: usize = 64;

/// What came of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// As it was asked for: NAME:PORT.
    pub name: String,
    /// Where it is, or why that is not known.
    pub result: Result<Vec<SocketAddr>, String>,
}

type Asked = (String, oneshot::Sender<Result<Vec<SocketAddr>, String>>);

/// Who is asked.
#[derive(Clone, Debug)]
pub(super) struct Names(mpsc::Sender<Asked>);

impl Names {
    /// On this line names are asked for, one each, and [`Found`] is what comes back.
    pub(super) fn new(line: std::os::unix::net::UnixStream) -> io::Result<Self> {
        line.set_nonblocking(true)?;
        let (asked, queue) = mpsc::channel(WAITING);
        tokio::spawn(attend(UnixStream::from_std(line)?, queue));
        Ok(Self(asked))
    }

    /// Where ADDRESS:PORT or NAME:PORT is.
    pub(super) async fn find(&self, name: &str) -> Result<Vec<SocketAddr>, String> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        if name.contains(char::is_control) {
            return Err("it is no name".to_owned());
        }
        let (answer, answered) = oneshot::channel();
        let ended = "who looks up names has ended: end the process that carries vnets, too (`engine` of `viaduct status \
                     --json`), and both are started anew";
        self.0.send((name.to_owned(), answer)).await.map_err(|_| ended.to_owned())?;
        answered.await.map_err(|_| ended.to_owned())?
    }
}

async fn attend(line: UnixStream, mut queue: mpsc::Receiver<Asked>) {
    let (read, mut write) = line.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut waiting = BTreeMap::<String, Vec<oneshot::Sender<_>>>::new();
    loop {
        tokio::select! {
            Some((name, answer)) = queue.recv() => {
                let asked = waiting.entry(name.clone()).or_default();
                asked.retain(|answer| !answer.is_closed());
                let is_asked = !asked.is_empty();
                asked.push(answer);
                if !is_asked && write.write_all(format!("{name}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
            line = lines.next_line() => {
                let Ok(Some(line)) = line else { return };
                let Ok(found) = serde_json::from_str::<Found>(&line) else { return };
                for answer in waiting.remove(&found.name).unwrap_or_default() {
                    let _ = answer.send(found.result.clone());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Write};

    use super::*;

    #[tokio::test]
    async fn a_name_is_asked_for_on_the_line_and_an_address_is_not() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let there: SocketAddr = "192.0.2.1:1798".parse().unwrap();
        let other = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for line in io::BufReader::new(theirs.try_clone().unwrap()).lines().take(2) {
                let name = line.unwrap();
                let result = if name == "b:1798" { Ok(vec![there]) } else { Err("unknown".to_owned()) };
                let answer = serde_json::to_string(&Found { name: name.clone(), result }).unwrap();
                (&theirs).write_all(format!("{answer}\n").as_bytes()).unwrap();
                asked.push(name);
            }
            asked
        });
        let names = Names::new(ours).unwrap();
        assert_eq!(names.find("[2001:db8::1]:1").await, Ok(vec!["[2001:db8::1]:1".parse().unwrap()]));
        assert_eq!(names.find("b:1798").await, Ok(vec![there]));
        assert_eq!(names.find("c:1798").await, Err("unknown".to_owned()));
        assert!(names.find("c\n:1798").await.is_err());
        assert_eq!(other.join().unwrap(), ["b:1798", "c:1798"]);
        assert!(names.find("d:1798").await.unwrap_err().contains("has ended"));
    }
}
