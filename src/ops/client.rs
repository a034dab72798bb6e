//! The other side of the port: asks a running service what a stopped one's store would be asked.
//!
//! Never here: TLS (what stands before the port speaks it), redirects, or an answer without a bound.

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONNECTION, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::api::NEXT;
use super::inspect::{Format, Out, Question, Told};

/// For one page, and for the next piece of a backup; the port itself answers within some seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// A supervisor asks again soon, and an answer that takes longer is none.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);
/// Far above what one page may be.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

const BACKUP: &str = "/api/v1/backup";

/// `http://host:port`, and nothing behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpsUrl {
    /// `host:port`
    authority: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected http://host:port, as in http://127.0.0.1:9464")]
pub struct OpsUrlError;

impl FromStr for OpsUrl {
    type Err = OpsUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let authority = text.strip_prefix("http://").ok_or(OpsUrlError)?.trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':').ok_or(OpsUrlError)?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_[]:".contains(&byte);
        if host.is_empty() || !host.bytes().all(fits) || port.parse::<u16>().is_err() {
            return Err(OpsUrlError);
        }
        Ok(Self { authority: authority.to_owned() })
    }
}

impl fmt::Display for OpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("{url} cannot be reached")]
    Unreachable {
        url: OpsUrl,
        #[source]
        source: anyhow::Error,
    },
    #[error("{url} does not let us in: {why}")]
    Denied { url: OpsUrl, why: String },
    #[error("{url} answers {status}: {why}")]
    Refused { url: OpsUrl, status: StatusCode, why: String },
    #[error("writing the answer")]
    Output(#[source] anyhow::Error),
    #[error("{url} broke off in the middle; its log says why")]
    BrokeOff {
        url: OpsUrl,
        #[source]
        source: anyhow::Error,
    },
}

/// One of the three questions about health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Would a restart help?
    Live,
    /// Does it take and publish?
    Ready,
    /// Has it recovered?
    Started,
}

impl Probe {
    fn path(self) -> &'static str {
        match self {
            Probe::Live => "/livez",
            Probe::Ready => "/readyz",
            Probe::Started => "/startupz",
        }
    }
}

struct Reply {
    status: StatusCode,
    next: Option<String>,
    body: String,
}

/// Asks how the service is. `Ok(Err(why))`: not well, in its own words.
pub async fn probe(url: &OpsUrl, probe: Probe) -> Result<Result<(), String>, AskError> {
    let Reply { status, body, .. } = within(PROBE_PATIENCE, url, get(url, None, probe.path())).await?;
    let why = body.trim_end().to_owned();
    match status {
        StatusCode::OK => Ok(Ok(())),
        StatusCode::SERVICE_UNAVAILABLE => Ok(Err(why)),
        status => Err(AskError::Refused { url: url.clone(), status, why }),
    }
}

async fn within(patience: Duration, url: &OpsUrl, asking: impl Future<Output = anyhow::Result<Reply>>) -> Result<Reply, AskError> {
    let reply = tokio::time::timeout(patience, asking).await;
    let reply = reply.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {} s", patience.as_secs())));
    reply.map_err(|source| AskError::Unreachable { url: url.clone(), source })
}

/// Asks, page after page, and hands on what is told.
pub async fn ask(url: &OpsUrl, token: Option<&str>, question: &Question, format: Format, out: &mut dyn Out) -> Result<Told, AskError> {
    let format = match format {
        Format::Json => "json",
        Format::Table => "table",
    };
    let mut after = String::new();
    loop {
        let path = format!("{question}format={format}{after}");
        let Reply { status, next, body } = within(PATIENCE, url, get(url, token, &path)).await?;
        let why = || body.trim_end().to_owned();
        match status {
            StatusCode::OK => out.text(&body).map_err(AskError::Output)?,
            StatusCode::NOT_FOUND => return Ok(Told::Unknown(why())),
            StatusCode::UNAUTHORIZED | StatusCode::MISDIRECTED_REQUEST => return Err(AskError::Denied { url: url.clone(), why: why() }),
            status => return Err(AskError::Refused { url: url.clone(), status, why: why() }),
        }
        match next {
            Some(next) if !out.is_closed() => after = format!("&after={next}"),
            Some(_) | None => return Ok(Told::All),
        }
    }
}

/// Has the service write its store down, and hands the lines on as they come. Whether they are all there their end says.
/// `partition`: which, of a service that serves several.
pub async fn backup(url: &OpsUrl, token: Option<&str>, partition: Option<u16>, out: &mut (dyn Write + Send)) -> Result<(), AskError> {
    let unreachable = |source| AskError::Unreachable { url: url.clone(), source };
    // what the store has frozen already has to get into sled first
    let path = partition.map_or_else(|| BACKUP.to_owned(), |partition| format!("{BACKUP}?partition={partition}"));
    let asked = tokio::time::timeout(PATIENCE * 2, send(url, token, Method::POST, &path)).await;
    let (response, driving) = asked.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer"))).map_err(unreachable)?;
    let (status, mut body) = (response.status(), response.into_body());
    if status != StatusCode::OK {
        let why = Limited::new(body, MAX_BODY_BYTES).collect().await.map(|why| why.to_bytes()).unwrap_or_default();
        let why = String::from_utf8_lossy(&why).trim_end().to_owned();
        return Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::MISDIRECTED_REQUEST => AskError::Denied { url: url.clone(), why },
            status => AskError::Refused { url: url.clone(), status, why },
        });
    }
    let broke_off = |source: anyhow::Error| AskError::BrokeOff { url: url.clone(), source };
    loop {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.map_err(|error| broke_off(error.into()))?;
        let Some(frame) = frame else { break };
        if let Ok(piece) = frame.map_err(|error| broke_off(error.into()))?.into_data() {
            out.write_all(&piece).map_err(|error| AskError::Output(error.into()))?;
        }
    }
    driving.abort();
    Ok(())
}

async fn get(url: &OpsUrl, token: Option<&str>, path: &str) -> anyhow::Result<Reply> {
    let (response, driving) = send(url, token, Method::GET, path).await?;
    let status = response.status();
    let next = response.headers().get(NEXT).and_then(|next| next.to_str().ok()).map(str::to_owned);
    let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    driving.abort();
    Ok(Reply { status, next, body: String::from_utf8(body.to_vec())? })
}

type Driving = tokio::task::JoinHandle<hyper::Result<()>>;

/// The response, and the task that drives its connection.
async fn send(url: &OpsUrl, token: Option<&str>, method: Method, path: &str) -> anyhow::Result<(Response<Incoming>, Driving)> {
    let stream = TcpStream::connect(&url.authority).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driving = tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header(HOST, &url.authority).header(CONNECTION, "close");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    Ok((sender.send_request(request.body(Empty::<Bytes>::new())?).await?, driving))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, taken) in [
            ("http://127.0.0.1:9464", Some("http://127.0.0.1:9464")),
            ("http://[::1]:9464/", Some("http://[::1]:9464")),
            ("http://ops.example:80", Some("http://ops.example:80")),
            ("https://127.0.0.1:9464", None),
            ("http://127.0.0.1", None),
            ("http://user:secret@host:80", None),
            ("http://host:80/path", None),
            ("127.0.0.1:9464", None),
        ] {
            assert_eq!(text.parse::<OpsUrl>().ok().map(|url| url.to_string()).as_deref(), taken, "{text}");
        }
    }
}
