//! The API: HTTP with JSON on a Unix socket. Who may connect is told by the socket's permissions, who may change the
//! host by the kernel's word on who connected.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, DefaultBodyLimit, Query, State, connect_info::Connected},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Json, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::UnixListener,
    runtime,
    sync::{broadcast::error::RecvError, mpsc, oneshot},
};
use tokio_stream::{Stream, StreamExt, wrappers::UnboundedReceiverStream};

use super::{
    jobs::{Job, Jobs},
    news::{Event, News},
    openapi,
    service::Service,
};
use crate::{
    failure::{Failure, Kind},
    operations::{self, Caller, Operation, Visit},
    user,
};

/// The socket's name in the run directory.
pub(crate) const SOCKET: &str = "api.sock";
/// Who accepts this hears of progress: a line of JSON each, the last one with the report.
pub(crate) const LINES: &str = "application/x-ndjson";
/// Members of this group may look.
const GROUP: &str = "viaduct";
/// As much as the files of a configuration may be together, and more.
const LARGEST: usize = 256 << 20;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(50);

/// A line of an answer.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Line<R> {
    /// So many steps are done of how many.
    Progress(usize, usize),
    /// Why nothing happens yet.
    Waiting(String),
    /// The last one: it is done.
    Report(R),
    /// The last one: it is not.
    Failure(Failure),
}

/// The path of an operation.
pub(crate) fn path<O: Operation>() -> String {
    format!("/v1/{}", O::NAME)
}

/// The API, served by a thread of its own.
pub(super) struct Api {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Api {
    pub(super) fn stop(self) {
        // Gone already when the thread is.
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

#[derive(Clone)]
struct Shared {
    jobs: Jobs,
    news: News,
    service: Service,
}

/// Who connected.
#[derive(Clone, Copy)]
struct Peer {
    /// None when the kernel did not say.
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|peer| peer.uid()) }
    }
}

pub(super) fn start(run_dir: &Path, jobs: Jobs, news: News, service: Service) -> Result<Api, Failure> {
    let path = run_dir.join(SOCKET);
    let failed = |error: io::Error| Failure::failed(format!("cannot listen on {}: {error}", path.display()));
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let listener = runtime.block_on(async { listen(&path) }).map_err(failed)?;
    let (stop, stopped) = oneshot::channel();
    let run = move || runtime.block_on(serve(listener, path, Shared { jobs, news, service }, stopped));
    let thread = thread::Builder::new().name("api".to_owned()).spawn(run);
    Ok(Api { stop, thread: thread.map_err(|e| Failure::failed(format!("cannot start a thread: {e}")))? })
}

/// Listens under another name first, so that nobody connects before the permissions are right.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&beside)?;
    let group = user::group(GROUP);
    fs::set_permissions(&beside, fs::Permissions::from_mode(if group.is_some() { 0o660 } else { 0o600 }))?;
    chown(&beside, Some(0), Some(group.unwrap_or(0)))?;
    fs::rename(&beside, path)?;
    Ok(listener)
}

async fn serve(listener: UnixListener, path: PathBuf, shared: Shared, stopped: oneshot::Receiver<()>) {
    let jobs = shared.jobs.clone();
    let mut routes = Routes(Router::new());
    operations::visit(&mut routes);
    let router = routes
        .0
        .route("/v1/events", get(events))
        .route("/v1/openapi.json", get(|| async { Json(openapi::document()) }))
        .layer(DefaultBodyLimit::max(LARGEST))
        .with_state(shared);
    let service = router.into_make_service_with_connect_info::<Peer>();
    let ended = async {
        tokio::select! {
            served = axum::serve(listener, service) => if let Err(error) = served {
                tracing::error!("the API ended: {error}");
            },
            () = signals() => {
                jobs.send(Job::End);
            }
        }
        // Whoever is served is served until the keeper ends.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = ended => {}
        _ = stopped => {}
    }
    // Whoever finds no socket works by itself.
    let _ = fs::remove_file(path);
}

/// Until somebody wants the daemon to end.
async fn signals() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!("signals are not heard: {error}");
            std::future::pending().await
        }
    }
}

struct Routes(Router<Shared>);

impl Visit for Routes {
    fn visit<O: Operation>(&mut self) {
        let ways = if O::QUERY { post(change::<O>).get(look::<O>) } else { post(change::<O>) };
        let router = std::mem::take(&mut self.0);
        self.0 = router.route(&path::<O>(), ways);
    }
}

/// Asked for with parameters in the query.
async fn look<O: Operation>(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    query: Result<Query<O>, axum::extract::rejection::QueryRejection>,
) -> Response {
    match query {
        Ok(Query(operation)) => handle(shared, peer, &headers, operation).await,
        Err(error) => refuse(Failure::usage(format!("the query does not fit: {}", error.body_text()))),
    }
}

/// Asked for with a JSON object in the body; none is an empty one.
async fn change<O: Operation>(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
    match serde_json::from_slice(&body) {
        Ok(operation) => handle::<O>(shared, peer, &headers, operation).await,
        Err(error) => refuse(Failure::usage(format!("the request does not fit: {error}"))),
    }
}

async fn handle<O: Operation>(shared: Shared, peer: Peer, headers: &HeaderMap, operation: O) -> Response {
    if O::WRITES && peer.uid != Some(0) {
        return refuse(Failure::forbidden(format!("only root may ask for `{}`", O::NAME)));
    }
    let (sender, receiver) = mpsc::unbounded_channel();
    let (news, service) = (shared.news.clone(), shared.service);
    let by = peer.uid.map_or_else(|| "somebody".to_owned(), user::name);
    let job = Job::Do(Box::new(move |host| {
        let last = perform(host, operation, by, (&news, service), &sender);
        // Whoever asked may be gone; what was asked is done all the same.
        let _ = sender.send(last);
    }));
    if !shared.jobs.send(job) {
        return refuse(Failure::failed("the daemon is ending; ask again"));
    }
    let lines = UnboundedReceiverStream::new(receiver);
    if headers.get(header::ACCEPT).is_some_and(|accept| accept == LINES) {
        return stream(lines);
    }
    let last = lines.filter(|line| matches!(line, Line::Report(_) | Line::Failure(_)));
    tokio::pin!(last);
    match last.next().await {
        Some(Line::Report(report)) => Json(report).into_response(),
        Some(Line::Failure(failure)) => refuse(failure),
        Some(Line::Progress(..) | Line::Waiting(_)) | None => {
            refuse(Failure::failed("the daemon ended before it was done; ask again"))
        }
    }
}

/// Performs an operation in the keeper's thread, and gives the last line of the answer.
fn perform<O: Operation>(
    host: &mut crate::host::Host,
    operation: O,
    by: String,
    (news, service): (&News, Service),
    sender: &mpsc::UnboundedSender<Line<O::Report>>,
) -> Line<O::Report> {
    let (mut told, mut heart) = (Instant::now(), service.heart());
    let mut progress = |done, total| {
        heart.beat();
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            let _ = sender.send(Line::Progress(done, total));
        }
    };
    let waiting = |why: &str| {
        let _ = sender.send(Line::Waiting(why.to_owned()));
    };
    let mut caller = Caller { by: by.clone(), progress: &mut progress, waiting: &waiting };
    match operations::perform(host, operation, &mut caller) {
        Ok(report) => {
            if O::WRITES {
                news.tell(Event::Changed { action: O::NAME.to_owned(), by });
            }
            Line::Report(report)
        }
        Err(failure) => Line::Failure(failure.packed()),
    }
}

/// What happens from now on, a line each.
async fn events(State(shared): State<Shared>) -> Response {
    let mut receiver = shared.news.listen();
    // So that the keeper counts from now on.
    shared.jobs.send(Job::Do(Box::new(|_| ())));
    let (sender, lines) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                event = receiver.recv() => event,
                () = sender.closed() => return,
            };
            let event = match event {
                Ok(event) => event,
                Err(RecvError::Lagged(events)) => Event::Lost { events },
                Err(RecvError::Closed) => return,
            };
            if sender.send(event).await.is_err() {
                return;
            }
        }
    });
    stream(tokio_stream::wrappers::ReceiverStream::new(lines))
}

/// Lines of JSON, as they come.
fn stream<T: Serialize + Send + 'static>(lines: impl Stream<Item = T> + Send + 'static) -> Response {
    let bytes = lines.filter_map(|line| {
        let mut text = serde_json::to_vec(&line).ok()?;
        text.push(b'\n');
        Some(Ok::<_, Infallible>(text))
    });
    ([(header::CONTENT_TYPE, LINES)], Body::from_stream(bytes)).into_response()
}

fn refuse(failure: Failure) -> Response {
    let status = match failure.kind {
        Kind::Usage => StatusCode::BAD_REQUEST,
        Kind::Unreadable | Kind::Configuration | Kind::Unfit => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, Json(failure)).into_response()
}
