//! Requests to the Hub: what a repository has, and the bytes of its files. Redirects are followed, with the token only where they
//! stay on the same host; what is refused for the moment is asked for again.

use super::name::{HubName, RepoKind, is_path};
use super::part::{Part, RemoteFile};
use super::settings::Settings;
use super::{Event, Watch};
use crate::env::{HF_ENDPOINT, HF_TOKEN};
use crate::error::{Error, Result};
use crate::io::kind::LONGEST_SMALL;
use serde_json::Value;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response};
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body};

/// How often in a row a request may fail without a new byte.
const TRIES: u32 = 5;
/// The same where nobody answers at all before anything has begun: mostly there is no network.
const TRIES_TO_BEGIN: u32 = 2;
/// The first wait; each later one is three times as long.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest wait that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(15);
/// Without a byte for so long, a connection is given up and the rest asked for again.
const SILENCE: Duration = Duration::from_secs(30);
/// Redirects on the Hub itself that are followed, at most.
const MOST_MOVES: u32 = 5;
/// Bytes that are read at once.
const CHUNK: usize = 1 << 18;

/// Why a request came to nothing.
#[derive(Debug)]
pub enum Failure {
    /// The server cannot be reached, or cannot answer now.
    Unreachable(String),
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

/// What a repository has at one commit.
#[derive(Debug)]
pub struct Listing {
    pub commit: String,
    pub files: Vec<RemoteFile>,
}

pub struct Client {
    agent: Agent,
    settings: Settings,
    pause: Duration,
}

/// An answer that is not the one wanted, and whether to ask again.
enum Turn {
    /// Nobody answers.
    Silence(String),
    Again(String, Option<Duration>),
    Never(Failure),
}

/// Where a redirect without the file's digest leads, if that is on the same host as `url`: the repository has another name now.
fn within(url: &str, headers: &HeaderMap) -> Option<String> {
    if headers.contains_key("x-linked-etag") {
        return None;
    }
    let location = headers.get("location")?.to_str().ok()?;
    let (scheme, rest) = url.split_once("://")?;
    let host = format!("{scheme}://{}", rest.split('/').next()?);
    match location.strip_prefix(&host) {
        Some(path) if path.starts_with('/') => Some(location.to_owned()),
        _ if location.starts_with('/') && !location.starts_with("//") => Some(host + location),
        _ => None,
    }
}

impl Client {
    pub fn new(settings: Settings) -> Client {
        Client::with_pause(settings, PAUSE)
    }

    pub fn with_pause(settings: Settings, pause: Duration) -> Client {
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost) // a repository that was renamed is elsewhere on the Hub
            .user_agent(concat!("rugosa/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE));
        Client { agent: Agent::new_with_config(config.build()), settings, pause }
    }

    /// The files of a repository at the revision that `name` names.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn listing(&self, name: &HubName, watch: Watch<'_>) -> Result<Listing, Failure> {
        let (repo, revision) = (&name.repo, escaped(name.revision(), false));
        let kind = name.kind.plural();
        let url = format!("{}/api/{kind}/{repo}/revision/{revision}?blobs=true", self.settings.endpoint);
        let text = self.patiently(watch, || {
            let response = self.get(&url, 0).map_err(Turn::Silence)?;
            let mut response = self.accepted(name, None, response)?;
            let body = response.body_mut().with_config().limit(LONGEST_SMALL).read_to_vec();
            body.map_err(|e| Turn::Again(spoken(&e), None))
        })?;
        let wrong = |what: &str| {
            let reason =
                format!("{} does not answer as the Hub does: {what}; check {HF_ENDPOINT}", self.settings.endpoint);
            Failure::Error(name.error(reason))
        };
        let json: Value = serde_json::from_slice(&text).map_err(|e| wrong(&format!("no JSON ({e})")))?;
        let commit = json["sha"].as_str().filter(|s| super::cache::is_commit(s)).ok_or_else(|| wrong("no commit"))?;
        let siblings = json["siblings"].as_array().ok_or_else(|| wrong("no list of files"))?;
        let files = siblings.iter().filter_map(remote_file).collect();
        Ok(Listing { commit: commit.to_owned(), files })
    }

    /// Size and digest of a file of which the listing does not say them.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn identify(&self, name: &HubName, commit: &str, file: &str, watch: Watch<'_>) -> Result<RemoteFile, Failure> {
        let mut url = self.url(name, commit, file);
        let mut moves = 0;
        let head = self.patiently(watch, || {
            loop {
                // the digest is in the Hub's own answer, before it leads elsewhere
                let request = self.agent.head(&url).config().max_redirects(0).max_redirects_will_error(false).build();
                let response = self.with_token(request).call().map_err(|e| Turn::Silence(spoken(&e)))?;
                if !response.status().is_redirection() {
                    return self.accepted(name, Some(file), response);
                }
                match within(&url, response.headers()).filter(|_| moves < MOST_MOVES) {
                    Some(next) => (url, moves) = (next, moves + 1),
                    None => return Ok(response),
                }
            }
        })?;
        let text = |key: &str| head.headers().get(key).and_then(|v| v.to_str().ok());
        let etag = text("x-linked-etag").or_else(|| text("etag"));
        let etag = etag.map(|e| e.trim_start_matches("W/").trim_matches('"').to_owned());
        let own = (!head.status().is_redirection()).then(|| text("content-length")).flatten();
        let size = text("x-linked-size").or(own).and_then(|s| s.parse().ok());
        Ok(RemoteFile { path: file.to_owned(), size, etag })
    }

    /// Fetches what is missing of a file into `part`.
    ///
    /// # Errors
    /// [`Failure`]; what has arrived stays.
    pub fn download(
        &self,
        name: &HubName,
        commit: &str,
        file: &str,
        part: &mut Part,
        watch: Watch<'_>,
    ) -> Result<(), Failure> {
        let url = self.url(name, commit, file);
        let mut furthest = part.length;
        let mut tries = 0;
        while !part.is_whole() {
            let turn = match self.receive(name, file, &url, part, watch) {
                Ok(()) if part.is_whole() || part.missing().is_none() => break,
                Ok(()) => Turn::Again("the connection ended early".to_owned(), None),
                Err(turn) => turn,
            };
            tries = if part.length > furthest { 0 } else { tries + 1 };
            furthest = furthest.max(part.length);
            match turn {
                Turn::Never(failure) => return Err(failure),
                Turn::Silence(reason) => self.wait(tries, TRIES, &reason, None, watch)?,
                Turn::Again(reason, wait) => self.wait(tries, TRIES, &reason, wait, watch)?,
            }
        }
        Ok(())
    }

    /// One answer's bytes.
    fn receive(&self, name: &HubName, file: &str, url: &str, part: &mut Part, watch: Watch<'_>) -> Result<(), Turn> {
        let never = |e: Error| Turn::Never(Failure::Error(e));
        let response = self.get(url, part.length).map_err(Turn::Silence)?;
        if response.status() == 416 {
            part.clear().map_err(never)?;
            return Err(Turn::Again("the server has no such range".to_owned(), None));
        }
        let response = self.accepted(name, Some(file), response)?;
        // what is no answer to the range is the whole file
        if part.length > 0 && !(response.status() == 206 && starts_at(response.headers(), part.length)) {
            part.clear().map_err(never)?;
        }
        let mut body = response.into_body().into_reader();
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = body.read(&mut chunk).map_err(|e| Turn::Again(e.to_string(), None))?;
            if read == 0 {
                return Ok(());
            }
            // what is more than the file has is not written: its digest shows that the rest is wrong
            let read = part.missing().map_or(read, |m| usize::try_from(m).map_or(read, |m| read.min(m)));
            part.push(&chunk[..read]).map_err(never)?;
            if !watch(Event::Bytes { file, done: part.length }) {
                return Err(never(Error::Interrupted));
            }
            if part.is_whole() {
                return Ok(());
            }
        }
    }

    /// Asks until there is an answer, or no hope of one.
    fn patiently<T>(&self, watch: Watch<'_>, mut ask: impl FnMut() -> Result<T, Turn>) -> Result<T, Failure> {
        let mut tries = 0;
        loop {
            match ask() {
                Ok(answer) => return Ok(answer),
                Err(Turn::Never(failure)) => return Err(failure),
                Err(Turn::Silence(reason)) => {
                    tries += 1;
                    self.wait(tries, TRIES_TO_BEGIN, &reason, None, watch)?;
                }
                Err(Turn::Again(reason, wait)) => {
                    tries += 1;
                    self.wait(tries, TRIES, &reason, wait, watch)?;
                }
            }
        }
    }

    /// Waits before the next try, if there is to be one.
    fn wait(
        &self,
        tries: u32,
        most: u32,
        reason: &str,
        asked: Option<Duration>,
        watch: Watch<'_>,
    ) -> Result<(), Failure> {
        let endpoint = &self.settings.endpoint;
        if tries >= most {
            return Err(Failure::Unreachable(format!("{endpoint} cannot be reached ({reason})")));
        }
        let pause = asked.map_or(self.pause * 3u32.pow(tries.saturating_sub(1)), |a| a.min(LONGEST_PAUSE));
        if tries > 0 && pause >= Duration::from_secs(1) {
            watch(Event::Note(&format!("{endpoint}: {reason}; asking again in {:.0} s", pause.as_secs_f64())));
        }
        // in short pieces, so that Ctrl-C is answered at once
        let end = std::time::Instant::now() + pause;
        while let Some(left) = end.checked_duration_since(std::time::Instant::now()).filter(|l| !l.is_zero()) {
            if !watch(Event::Waiting) {
                return Err(Failure::Error(Error::Interrupted));
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
        Ok(())
    }

    fn get(&self, url: &str, from: u64) -> Result<Response<Body>, String> {
        let mut request = self.with_token(self.agent.get(url));
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        request.call().map_err(|e| spoken(&e))
    }

    fn with_token<T>(&self, request: ureq::RequestBuilder<T>) -> ureq::RequestBuilder<T> {
        match &self.settings.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn url(&self, name: &HubName, commit: &str, file: &str) -> String {
        format!("{}/resolve/{commit}/{}", name.page(&self.settings.endpoint), escaped(file, true))
    }

    /// The response, if it is one that was asked for.
    fn accepted(&self, name: &HubName, file: Option<&str>, response: Response<Body>) -> Result<Response<Body>, Turn> {
        let status = response.status().as_u16();
        let header = |key: &str| response.headers().get(key).and_then(|v| v.to_str().ok()).unwrap_or_default();
        match status {
            200 | 206 => Ok(response),
            408 | 429 | 500..=599 => {
                let wait = header("retry-after").trim().parse().ok().map(Duration::from_secs);
                Err(Turn::Again(format!("it answers {status}"), wait))
            }
            _ => Err(Turn::Never(Failure::Error(self.refusal(name, file, status, header("x-error-code"))))),
        }
    }

    /// Why the Hub refuses, in a line.
    fn refusal(&self, name: &HubName, file: Option<&str>, status: u16, code: &str) -> Error {
        let endpoint = &self.settings.endpoint;
        let kind = name.kind.singular();
        let has_token = self.settings.token.is_some();
        let other = match name.kind {
            RepoKind::Model => "",
            RepoKind::Dataset => " (⟨data⟩ names data sets, not models)",
        };
        name.error(match (status, code) {
            (_, "GatedRepo") if has_token => format!(
                "its owners have not let you in: ask for access at {}, with the account of the token in {HF_TOKEN}",
                name.page(endpoint)
            ),
            (_, "GatedRepo") => format!(
                "its owners let in only whom they know: ask for access at {}, and set {HF_TOKEN} to a token of {endpoint}/settings/tokens",
                name.page(endpoint)
            ),
            (_, "RevisionNotFound") => format!("there is no revision {} of this {kind}", name.revision()),
            (_, "EntryNotFound") => format!("there is no file {} in this {kind}", file.unwrap_or("of this name")),
            (401, "") if has_token => {
                format!("{endpoint} does not accept the token in {HF_TOKEN}: make another at {endpoint}/settings/tokens")
            }
            (401 | 403 | 404, _) if has_token => {
                format!("{endpoint} has no {kind} of this name that the token in {HF_TOKEN} may see{other}; check the name")
            }
            (401 | 403 | 404, _) => {
                format!("{endpoint} has no public {kind} of this name{other}; check it, or set {HF_TOKEN} for a private one")
            }
            _ => format!("{endpoint} answers {status}; check {HF_ENDPOINT} and the name"),
        })
    }
}

/// An entry of a listing, if its name can be that of a file here.
fn remote_file(entry: &Value) -> Option<RemoteFile> {
    let path = entry["rfilename"].as_str().filter(|p| is_path(p))?;
    let etag = entry["lfs"]["sha256"].as_str().or_else(|| entry["blobId"].as_str()).map(str::to_owned);
    let size = entry["lfs"]["size"].as_u64().or_else(|| entry["size"].as_u64());
    Some(RemoteFile { path: path.to_owned(), size, etag })
}

/// Whether a partial answer begins where it was asked to.
fn starts_at(headers: &HeaderMap, from: u64) -> bool {
    let range = headers.get("content-range").and_then(|v| v.to_str().ok()).unwrap_or_default();
    range.trim().strip_prefix("bytes ").and_then(|r| r.split('-').next()?.trim().parse().ok()) == Some(from)
}

/// A path for a URL; `slashes`: they part it.
fn escaped(text: &str, slashes: bool) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || (slashes && b == b'/');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// What went wrong on the way, without what libraries put around it.
fn spoken(error: &ureq::Error) -> String {
    match error {
        ureq::Error::HostNotFound => "its name is not known: is there a network?".to_owned(),
        ureq::Error::ConnectionFailed => "no connection".to_owned(),
        ureq::Error::Timeout(_) => "it does not answer in time".to_owned(),
        ureq::Error::Io(e) => e.to_string(),
        other => other.to_string(),
    }
}
