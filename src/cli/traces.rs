//! Traces go to a collector over OTLP/HTTP when `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) says where; feature
//! `otlp`. The other variables are those of every OpenTelemetry SDK.
//!
//! Never here: which spans there are, TLS (a collector is beside the service; it speaks TLS to the world), and a failure of
//! the collector as a reason to stop or to wait.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::exit::Exit;

const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// For one batch of spans; a collector that takes longer loses it.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a collector may say.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// For the last spans, at the end: a part of the time that a stop may take.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// Spans are sent from now on, until this is stopped.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// `None` where no collector is named.
    pub fn start() -> anyhow::Result<Option<Self>> {
        let named = ENDPOINTS.iter().find_map(|name| std::env::var(name).ok().filter(|url| !url.is_empty()).map(|url| (*name, url)));
        let Some((name, url)) = named else { return Ok(None) };
        if !url.starts_with("http://") {
            return Err(anyhow::anyhow!("{name}: expected http://host:port of a collector beside the service")).context(Exit::Config);
        }
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client(Handle::current()))
            .with_protocol(Protocol::HttpBinary)
            .build()
            .with_context(|| name.to_owned())
            .context(Exit::Config)?;
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("remedyd");
        }
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
        opentelemetry::global::set_tracer_provider(provider.clone());
        tracing::info!("traces go to a collector");
        Ok(Some(Self(provider)))
    }

    /// Sends what is left, if the collector takes it.
    pub async fn stop(self) {
        // it blocks while its own thread sends by way of this runtime
        let stopped = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(LAST_SPANS)).await;
        if !matches!(stopped, Ok(Ok(()))) {
            tracing::debug!("the last spans were not sent");
        }
    }
}

/// One request a connection: a batch goes every few seconds.
struct Client(Handle);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl HttpClient for Client {
    fn send_bytes<'client, 'sent>(
        &'client self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'sent>>
    where
        'client: 'sent,
        Self: 'sent,
    {
        // the sender's thread knows no runtime
        let sending = self.0.spawn(async move { tokio::time::timeout(PATIENCE, send(request)).await? });
        Box::pin(async move { sending.await? })
    }
}

async fn send(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (mut parts, body) = request.into_parts();
    let authority = parts.uri.authority().ok_or("the collector's address has no host")?.clone();
    let host = authority.host().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let serving = tokio::spawn(connection);
    parts.uri = parts.uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;
    parts.headers.insert(HOST, authority.as_str().parse()?);
    let answer = sender.send_request(Request::from_parts(parts, Full::new(body))).await?;
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?.to_bytes();
    serving.abort();
    Ok(Response::from_parts(parts, body))
}
