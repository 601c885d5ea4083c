//! Names of hosts are looked up by somebody else, on the other end of a line: the engine opens no files but its own.

use std::{collections::BTreeMap, io, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{mpsc, oneshot},
    time,
};
use tracing::{info, warn};

use super::engine::Input;

/// So many may wait to be asked for.
const WAITING: usize = 64;
/// So long after the other end is gone another one is asked for: who ends at once is not started over and over.
const PAUSE: Duration = Duration::from_secs(1);

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
pub(super) struct Names {
    asked: mpsc::Sender<Asked>,
    lines: mpsc::Sender<UnixStream>,
}

impl Names {
    /// On this line names are asked for, one each, and [`Found`] is what comes back. When it ends, that is reported, and another
    /// one awaited.
    pub(super) fn new(line: std::os::unix::net::UnixStream, inputs: mpsc::Sender<Input>) -> io::Result<Self> {
        line.set_nonblocking(true)?;
        let line = UnixStream::from_std(line)?;
        let (asked, queue) = mpsc::channel(WAITING);
        let (lines, others) = mpsc::channel(1);
        tokio::spawn(keep(line, queue, others, inputs));
        Ok(Self { asked, lines })
    }

    /// Somebody else looks up names from now on.
    pub(super) async fn ask_there(&self, line: UnixStream) {
        let _ = self.lines.send(line).await;
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
        let ended = "who looks up names has ended; the daemon starts it anew: does it run?";
        self.asked.send((name.to_owned(), answer)).await.map_err(|_| ended.to_owned())?;
        answered.await.map_err(|_| ended.to_owned())?
    }
}

async fn keep(
    mut line: UnixStream,
    mut queue: mpsc::Receiver<Asked>,
    mut others: mpsc::Receiver<UnixStream>,
    inputs: mpsc::Sender<Input>,
) {
    loop {
        tokio::select! {
            () = attend(line, &mut queue) => {
                warn!("who looks up names of hosts has ended; the daemon starts another one");
                line = match next(&mut queue, &mut others, &inputs).await {
                    Some(line) => line,
                    None => return,
                };
            }
            Some(other) = others.recv() => line = other,
        }
        info!("names of hosts are looked up by another process");
        if inputs.send(Input::Names { are_found: true }).await.is_err() {
            return;
        }
    }
}

/// Asks for another line until there is one; who asks for names meanwhile is told that nobody looks them up.
async fn next(
    queue: &mut mpsc::Receiver<Asked>,
    others: &mut mpsc::Receiver<UnixStream>,
    inputs: &mpsc::Sender<Input>,
) -> Option<UnixStream> {
    let mut told = std::pin::pin!(async {
        time::sleep(PAUSE).await;
        let _ = inputs.send(Input::Names { are_found: false }).await;
        std::future::pending::<()>().await;
    });
    loop {
        tokio::select! {
            line = others.recv() => return line,
            asked = queue.recv() => drop(asked?),
            () = &mut told => {}
        }
    }
}

/// Until the other end is gone.
async fn attend(line: UnixStream, queue: &mut mpsc::Receiver<Asked>) {
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
        let (inputs, mut reported) = mpsc::channel(8);
        let names = Names::new(ours, inputs).unwrap();
        assert_eq!(names.find("[2001:db8::1]:1").await, Ok(vec!["[2001:db8::1]:1".parse().unwrap()]));
        assert_eq!(names.find("b:1798").await, Ok(vec![there]));
        assert_eq!(names.find("c:1798").await, Err("unknown".to_owned()));
        assert!(names.find("c\n:1798").await.is_err());
        assert_eq!(other.join().unwrap(), ["b:1798", "c:1798"]);
        assert!(names.find("d:1798").await.unwrap_err().contains("has ended"));
        assert!(matches!(reported.recv().await, Some(Input::Names { are_found: false })));
        assert!(names.find("d:1798").await.unwrap_err().contains("has ended"));
        // Until there is another one, which may be there twice.
        for _ in 0..2 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            names.ask_there(ours).await;
            assert!(matches!(reported.recv().await, Some(Input::Names { are_found: true })));
            let (found, _theirs) = tokio::join!(names.find("e:1798"), async {
                let mut theirs = BufReader::new(theirs);
                let mut asked = String::new();
                theirs.read_line(&mut asked).await.unwrap();
                let found = Found { name: asked.trim().to_owned(), result: Ok(vec![there]) };
                let answer = serde_json::to_string(&found).unwrap();
                theirs.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
                theirs
            });
            assert_eq!(found, Ok(vec![there]));
        }
    }
}
