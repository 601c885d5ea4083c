//! The unix socket on which the engine is told what to be.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::mpsc,
};
use tracing::debug;

use super::{Answer, Request, engine::Input, names::Names};

/// So many answers may wait for somebody who does not read them.
const WAITING: usize = 64;

/// Listens. What lay there is of an engine that ended: there is a lock, so that there is one engine.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves whoever connects.
pub(super) async fn serve(listener: UnixListener, inputs: mpsc::Sender<Input>, names: Names) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(attend(stream, inputs.clone(), names.clone()));
            }
            Err(error) => {
                debug!("a client was lost: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn attend(stream: UnixStream, inputs: mpsc::Sender<Input>, names: Names) {
    let (read, mut write) = stream.into_split();
    let (answers, mut queue) = mpsc::channel::<Answer>(WAITING);
    let here = Answer::Here { version: env!("CARGO_PKG_VERSION").to_owned(), pid: std::process::id() };
    if answers.try_send(here).is_err() {
        return;
    }
    let writing = tokio::spawn(async move {
        while let Some(answer) = queue.recv().await {
            let Ok(mut line) = serde_json::to_vec(&answer) else { break };
            line.push(b'\n');
            if write.write_all(&line).await.is_err() {
                break;
            }
        }
        write
    });
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str::<Request>(&line) {
            Ok(Request::Names) => {
                // What was to be said before has been, and nothing else comes: nobody has asked for anything here.
                drop(answers);
                if let Ok(write) = writing.await
                    && let Ok(stream) = lines.into_inner().into_inner().reunite(write)
                {
                    names.ask_there(stream).await;
                }
                return;
            }
            Ok(request) => {
                if inputs.send(Input::Asked { request, answers: answers.clone() }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                debug!("a client said something else: {error}");
                return;
            }
        }
    }
}
