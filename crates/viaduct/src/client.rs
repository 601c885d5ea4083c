//! The daemon's client: has it perform an operation.

use std::{io, path::Path};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{net::UnixStream, runtime};

use crate::{
    daemon::{LINES, Line, SOCKET, path},
    failure::Failure,
    operations::{Caller, Operation},
};

/// Has the daemon perform an operation; none when no daemon runs.
pub(crate) fn ask<O: Operation>(
    run_dir: &Path,
    operation: &O,
    caller: &mut Caller<'_>,
) -> Result<Option<O::Report>, Failure> {
    within(run_dir, async |mut sender| {
        let body = serde_json::to_vec(operation).map_err(|e| broken(&e))?;
        let response = send(&mut sender, Method::POST, &path::<O>(), body).await?;
        let mut report = None;
        lines(response, &mut |line: Line<O::Report>| match line {
            Line::Progress(done, total) => (caller.progress)(done, total),
            Line::Waiting(why) => caller.wait(&why),
            Line::Report(told) => report = Some(Ok(told)),
            Line::Failure(failure) => report = Some(Err(failure)),
        })
        .await?;
        report.unwrap_or_else(|| Err(broken(&"it ended before it was done")))
    })
}

/// Calls with each thing that happens, until the daemon ends. Says whether there is one.
pub(crate) fn listen<T: DeserializeOwned>(run_dir: &Path, each: &mut dyn FnMut(T)) -> Result<bool, Failure> {
    let heard = within(run_dir, async |mut sender| {
        let response = send(&mut sender, Method::GET, "/v1/events", Vec::new()).await?;
        lines(response, each).await
    })?;
    Ok(heard.is_some())
}

/// Whether a daemon runs.
pub(crate) fn is_there(run_dir: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(run_dir.join(SOCKET)).is_ok()
}

/// Does something with a connection to the daemon; none when no daemon runs.
fn within<T>(
    run_dir: &Path,
    act: impl AsyncFnOnce(http1::SendRequest<Full<Bytes>>) -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    let socket = run_dir.join(SOCKET);
    // Most hosts without a daemon have not even this.
    if !socket.exists() {
        return Ok(None);
    }
    let runtime = runtime::Builder::new_current_thread().enable_io().build().map_err(|e| broken(&e))?;
    runtime.block_on(async {
        let stream = match UnixStream::connect(&socket).await {
            Ok(stream) => stream,
            Err(error) => {
                let is = |kind| error.kind() == kind;
                // It was killed; this is what it left.
                if is(io::ErrorKind::NotFound) || is(io::ErrorKind::ConnectionRefused) {
                    return Ok(None);
                }
                if is(io::ErrorKind::PermissionDenied) {
                    return Err(Failure::forbidden(
                        "the daemon answers to root, and to members of the group viaduct for looking: try again with \
                         sudo",
                    ));
                }
                return Err(broken(&error));
            }
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        tokio::select! {
            result = act(sender) => result.map(Some),
            Err(error) = connection => Err(broken(&error)),
        }
    })
}

async fn send(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<hyper::Response<Incoming>, Failure> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "viaduct")
        .header(header::ACCEPT, LINES)
        .body(Full::from(body))
        .map_err(|e| broken(&e))?;
    sender.send_request(request).await.map_err(|e| broken(&e))
}

/// Calls with each line of an answer; an answer that is a failure is one.
async fn lines<T: DeserializeOwned>(
    response: hyper::Response<Incoming>,
    each: &mut dyn FnMut(T),
) -> Result<(), Failure> {
    let good = response.status() == StatusCode::OK;
    let mut body = response.into_body();
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|e| broken(&e))?.into_data() else { continue };
        // Only what is new is searched: a long line comes in many pieces.
        let mut pieces = data.split(|&byte| byte == b'\n' && good);
        text.extend_from_slice(pieces.next().unwrap_or_default());
        for piece in pieces {
            each(serde_json::from_slice(&text).map_err(|e| broken(&e))?);
            text.clear();
            text.extend_from_slice(piece);
        }
    }
    if good { Ok(()) } else { Err(serde_json::from_slice(&text).unwrap_or_else(|e| broken(&e))) }
}

fn broken(error: &dyn std::fmt::Display) -> Failure {
    Failure::failed(format!("the daemon cannot be asked: {error}"))
        .with("`viaduct status` shows how the host is; `systemctl restart viaduct` starts the daemon anew.")
}
