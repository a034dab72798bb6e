//! The port itself: accepts, asks who it is, routes, answers. It is there before the store is, and until the last event
//! has been drained, so that a supervisor can see both ends.
//!
//! Never here: work without a bound. So many connections, one question at a time, and each connection ends after a while.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::model::time::{Timestamp, system_now};
use crate::store::Store;

use super::access::Access;
use super::api::{self, Asked, BUDGET_ROWS, Body, NEXT, Parameters};
use super::facts::Facts;
use super::health::Stage;
use super::inspect::stores::TooMuch;
use super::inspect::{Format, Told, answer};
use super::watched::Watched;
use super::{backup, metrics, page};

/// Connections at a time; further ones wait to be accepted. A flood of them must not use up the descriptors that the
/// store and the broker need.
const CONNECTIONS: usize = 32;
/// A connection is closed after this long, whatever it does but for a backup: a scraper comes again.
const LONGEST_CONNECTION: Duration = Duration::from_secs(60);
/// For the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// A question that has not had its turn by then is refused.
const TURN_WITHIN: Duration = Duration::from_secs(5);
/// After a failure to accept (no descriptors left), before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// An address that is ours, and not yet served.
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

/// Takes the address. `port` 0: any that is free.
pub async fn bind(address: SocketAddr) -> io::Result<Bound> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok(Bound { listener, address })
}

/// The port, served until closed.
pub struct Port<S> {
    shared: Arc<Shared<S>>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

pub(super) struct Shared<S> {
    access: Access,
    started_at: Timestamp,
    standing: RwLock<Standing<S>>,
    /// One question at a time: what reading costs, the engine's thread is spared on the other core.
    turns: Arc<Semaphore>,
}

struct Standing<S> {
    stage: Stage,
    watched: Option<Arc<Watched<S>>>,
}

pub(super) type Of<S> = State<Arc<Shared<S>>>;

impl Bound {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to answer. Must be called within a tokio runtime.
    pub fn serve<S: Store>(self, access: Access) -> Port<S> {
        let standing = RwLock::new(Standing { stage: Stage::Starting, watched: None });
        let shared = Arc::new(Shared { access, started_at: system_now(), standing, turns: Arc::new(Semaphore::new(1)) });
        let (closing, tasks) = (CancellationToken::new(), TaskTracker::new());
        let accepting = accept(self.listener, router(Arc::clone(&shared)), closing.clone(), tasks.clone());
        tasks.spawn(accepting);
        Port { shared, closing, tasks }
    }
}

impl<S: Store> Port<S> {
    /// The pipelines have recovered and run.
    pub fn started(&self, watched: Arc<Watched<S>>) {
        self.stand(Stage::Running, Some(watched));
    }

    /// Told to stop; what there is can still be looked at.
    pub fn draining(&self) {
        let watched = self.shared.standing().1;
        self.stand(Stage::Draining, watched);
    }

    /// Takes no more connections, ends those that are there, and lets go of the store.
    pub async fn close(self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn stand(&self, stage: Stage, watched: Option<Arc<Watched<S>>>) {
        *self.shared.standing.write().unwrap_or_else(PoisonError::into_inner) = Standing { stage, watched };
    }
}

impl<S: Store> Shared<S> {
    pub(super) fn standing(&self) -> (Stage, Option<Arc<Watched<S>>>) {
        let standing = self.standing.read().unwrap_or_else(PoisonError::into_inner);
        (standing.stage, standing.watched.clone())
    }

    fn facts(&self) -> Facts {
        let (stage, watched) = self.standing();
        Facts::gather(stage, self.started_at, watched.as_deref())
    }

    /// Runs what blocks, when it is its turn.
    async fn read<T: Send + 'static>(self: Arc<Self>, read: impl FnOnce(&Self) -> T + Send + 'static) -> Result<T, Response> {
        let busy = || (StatusCode::SERVICE_UNAVAILABLE, "busy with other questions; ask again\n").into_response();
        let turn = tokio::time::timeout(TURN_WITHIN, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(busy()) };
        let reading = tokio::task::spawn_blocking(move || {
            // held to the end of the reading, also when nobody waits for the answer any more
            let _turn = turn;
            read(&self)
        });
        reading.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
    }
}

async fn accept(listener: TcpListener, router: Router, closing: CancellationToken, tasks: TaskTracker) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = closing.cancelled() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, closing) = (router.clone(), closing.clone());
                tasks.spawn(async move {
                    let _permit = permit;
                    let longer = Longer::default();
                    let over = async {
                        tokio::time::sleep(LONGEST_CONNECTION).await;
                        longer.0.lock().await
                    };
                    tokio::select! {
                        () = closing.cancelled() => {}
                        _ = over => {}
                        () = converse(stream, router, longer.clone()) => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "the ops port could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Held by what may keep its connection for longer than others: a backup, for as long as it makes progress.
#[derive(Debug, Clone, Default)]
pub(super) struct Longer(pub Arc<tokio::sync::Mutex<()>>);

async fn converse(stream: TcpStream, router: Router, longer: Longer) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(longer.clone());
        router.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(64 * 1024);
    let served = http.serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(error = %error, "a connection to the ops port ended early");
    }
}

fn router<S: Store>(shared: Arc<Shared<S>>) -> Router {
    type Asking = Result<Query<Parameters>, axum::extract::rejection::QueryRejection>;
    let probes = Router::new()
        .route("/livez", get(async |State(shared): Of<S>| health(shared.facts().not_live)))
        .route("/readyz", get(async |State(shared): Of<S>| health(shared.facts().not_ready)))
        .route(
            "/startupz",
            get(async |State(shared): Of<S>| match shared.standing().0 {
                Stage::Starting => health(vec!["the store is being read".to_owned()]),
                Stage::Running | Stage::Draining => health(Vec::new()),
            }),
        );
    let guarded = Router::new()
        .route("/", get(status_page))
        .route("/style.css", get(async || ([(CONTENT_TYPE, "text/css; charset=utf-8")], page::STYLE)))
        .route("/metrics", get(show_metrics))
        .route(
            "/api/v1/reports/{tenant}/{report}",
            get(async |State(shared): Of<S>, path: Path<(String, u64)>, query: Asking| {
                ask(shared, api::parameters(query).and_then(|parameters| api::report(path, parameters))).await
            }),
        )
        .route(
            "/api/v1/reports/{tenant}/{report}/explanation",
            get(async |State(shared): Of<S>, path: Path<(String, u64)>, query: Asking| {
                ask(shared, api::parameters(query).and_then(|parameters| api::explain(path, parameters))).await
            }),
        )
        .route(
            "/api/v1/agents/{tenant}/{agent}",
            get(async |State(shared): Of<S>, path: Path<(String, u64)>, query: Asking| {
                ask(shared, api::parameters(query).and_then(|parameters| api::agent(path, parameters))).await
            }),
        )
        .route(
            "/api/v1/blockers",
            get(async |State(shared): Of<S>, query: Asking| ask(shared, api::parameters(query).and_then(api::blockers)).await),
        )
        .route(
            "/api/v1/funnel/{tenant}",
            get(async |State(shared): Of<S>, path: Path<String>, query: Asking| {
                ask(shared, api::parameters(query).and_then(|parameters| api::funnel(path, parameters))).await
            }),
        )
        .route(
            "/api/v1/audit/{tenant}",
            get(async |State(shared): Of<S>, path: Path<String>, query: Asking| {
                ask(shared, api::parameters(query).and_then(|parameters| api::audit(path, parameters))).await
            }),
        )
        .route(
            "/api/v1/dead-letters",
            get(async |State(shared): Of<S>, query: Asking| ask(shared, api::parameters(query).and_then(api::dead_letters)).await),
        )
        .route("/api/v1/backup", post(backup::answer::<S>))
        .fallback(async || (StatusCode::NOT_FOUND, "there is nothing here\n"))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard));
    probes.merge(guarded).layer(middleware::map_response(seal)).with_state(shared)
}

async fn guard<S: Store>(State(shared): Of<S>, headers: HeaderMap, request: Request, next: Next) -> Response {
    match shared.access.check(&headers) {
        Ok(()) => next.run(request).await,
        Err((StatusCode::UNAUTHORIZED, why)) => (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], why).into_response(),
        Err(refused) => refused.into_response(),
    }
}

/// What a browser must not do with any of this: keep it, guess at it, run anything in it, tell others where it was.
async fn seal(mut response: Response) -> Response {
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn health(why_not: Vec<String>) -> Response {
    if why_not.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, why_not.join("\n") + "\n").into_response()
}

async fn show_metrics<S: Store>(State(shared): Of<S>) -> Response {
    let read = shared.read(|shared| metrics::text(shared.facts())).await;
    match read {
        Ok(Ok(text)) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Ok(Err(_)) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Err(refused) => refused,
    }
}

async fn status_page<S: Store>(State(shared): Of<S>) -> Response {
    let read = shared.read(|shared| {
        let urgent = shared.standing().1.map_or_else(|| Ok(Vec::new()), |watched| page::urgent(&watched));
        page::html(&shared.facts(), &urgent)
    });
    read.await.map_or_else(|refused| refused, |html| ([(CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response())
}

async fn ask<S: Store>(shared: Arc<Shared<S>>, asked: Asked) -> Response {
    let refuse = |status: StatusCode, why: &str| (status, format!("{why}\n")).into_response();
    let (question, format, page) = match asked {
        Ok(asked) => asked,
        Err((status, why)) => return refuse(status, &why),
    };
    let (_, Some(watched)) = shared.standing() else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "the service is starting: the store is being read");
    };
    let many = page.rows.is_some() && question.is_list();
    let read = shared.read(move |_| {
        let stores = watched.stores(BUDGET_ROWS);
        let mut body = Body::default();
        let told = answer(&stores, &question, format, &page, &mut body);
        told.map(|told| (told, body.0))
    });
    let content = match (format, many) {
        (Format::Table, _) => "text/plain; charset=utf-8",
        (Format::Json, true) => "application/x-ndjson",
        (Format::Json, false) => "application/json",
    };
    match read.await {
        Ok(Ok((Told::Unknown(what), _))) => refuse(StatusCode::NOT_FOUND, &what),
        Ok(Ok((told, body))) => {
            let mut response = ([(CONTENT_TYPE, content)], body).into_response();
            if let Told::Until(key) = told
                && let Ok(next) = HeaderValue::from_bytes(&key)
            {
                response.headers_mut().insert(NEXT, next);
            }
            response
        }
        Ok(Err(error)) if error.is::<TooMuch>() => refuse(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()),
        Ok(Err(error)) => {
            tracing::error!(error = %format!("{error:#}"), "a question at the ops port could not be answered");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "the store could not be read; the log says more")
        }
        Err(refused) => refused,
    }
}
