//! A small Hub on loopback: it has repositories, counts what it is asked, and misbehaves where it is told to.

#![allow(dead_code)] // each of its two users takes what it needs

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What an answer does instead of being right.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, with these headers, without a body.
    Status(u16, &'static str),
    /// The connection ends behind so many bytes of the body.
    Cut(usize),
    /// The range is not looked at.
    Whole,
    /// Every byte is another.
    Garbled,
    /// More bytes than the file has.
    Longer,
}

#[derive(Default)]
struct State {
    /// Path of a repository (`org/name`, `datasets/org/name`) and its files.
    repos: BTreeMap<String, Vec<(String, Vec<u8>)>>,
    /// What happens to the next answers to paths that end so.
    faults: Vec<(String, VecDeque<Fault>)>,
    /// Method, path, range and authorization of each request.
    log: Vec<String>,
    /// Without it a repository of this name gives no files.
    gated: Option<(String, String)>,
    /// A repository that has the second name now.
    moved: Option<(&'static str, &'static str)>,
    /// The listing has no sizes and digests.
    bare: bool,
    commit: Option<String>,
}

#[derive(Clone)]
pub struct Server {
    pub address: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        // ends with the process
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Server { address, state }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    pub fn put(&self, repo: &str, file: &str, bytes: &[u8]) {
        self.with(|s| {
            let files = s.repos.entry(repo.to_owned()).or_default();
            files.retain(|(name, _)| name != file);
            files.push((file.to_owned(), bytes.to_vec()));
        });
    }

    /// The next answers to paths that end in `path`.
    pub fn faults(&self, path: &str, faults: &[Fault]) {
        self.with(|s| s.faults.push((path.to_owned(), faults.iter().cloned().collect())));
    }

    pub fn gate(&self, repo: &str, token: &str) {
        self.with(|s| s.gated = Some((repo.to_owned(), token.to_owned())));
    }

    pub fn rename(&self, old: &'static str, new: &'static str) {
        self.with(|s| s.moved = Some((old, new)));
    }

    pub fn without_digests(&self) {
        self.with(|s| s.bare = true);
    }

    pub fn commit(&self, commit: &str) {
        self.with(|s| s.commit = Some(commit.to_owned()));
    }

    /// The requests since the last look.
    pub fn log(&self) -> Vec<String> {
        self.with(|s| std::mem::take(&mut s.log))
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let answer = answer(&head, state);
        let stream = reader.get_mut();
        if stream.write_all(&answer.bytes).is_err() || answer.ends {
            return;
        }
    }
}

struct Answer {
    bytes: Vec<u8>,
    ends: bool,
}

fn answer(head: &[String], state: &Mutex<State>) -> Answer {
    let mut words = head[0].split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let header = |name: &str| {
        let find =
            |h: &String| h.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned());
        head.iter().find_map(find)
    };
    let mut s = state.lock().unwrap();
    let token = header("authorization").unwrap_or_default();
    s.log.push(format!("{method} {target} {} {token}", header("range").unwrap_or_default()).trim_end().to_owned());
    let path = target.split('?').next().unwrap();
    let fault = s.faults.iter_mut().find(|(end, left)| path.ends_with(end.as_str()) && !left.is_empty());
    let fault = fault.and_then(|(_, left)| left.pop_front());
    if let Some(Fault::Status(status, headers)) = &fault {
        return plain(*status, headers, b"", method);
    }
    if let Some((old, new)) = s.moved.filter(|(old, _)| path.contains(old)) {
        let location = format!("Location: {}\r\n", target.replacen(old, new, 1));
        return plain(307, &location, b"", method);
    }
    let commit = s.commit.clone().unwrap_or_else(|| COMMIT.to_owned());
    if let Some(rest) = path.strip_prefix("/api/") {
        let (kind, rest) = rest.split_once('/').unwrap();
        let (repo, revision) = rest.split_once("/revision/").unwrap();
        let repo = if kind == "datasets" { format!("datasets/{repo}") } else { repo.to_owned() };
        let Some(files) = s.repos.get(&repo) else { return plain(404, "X-Error-Code: RepoNotFound\r\n", b"", method) };
        if !["main", "v1", &commit, "refs%2Fpr%2F1"].contains(&revision) {
            return plain(404, "X-Error-Code: RevisionNotFound\r\n", b"", method);
        }
        return plain(200, "", listing(files, &commit, s.bare).as_bytes(), method);
    }
    // files lie on another "host": its address is another name of this one
    if let Some(rest) = path.strip_prefix("/cdn/") {
        let (repo, file) = rest.split_once("/-/").unwrap();
        let bytes = bytes_of(&s, repo, file).unwrap();
        return ranged(&bytes, header("range"), fault, method);
    }
    let (repo, rest) = path[1..].split_once("/resolve/").unwrap();
    if s.gated.as_ref().is_some_and(|(name, wanted)| name == repo && token != format!("Bearer {wanted}")) {
        return plain(401, "X-Error-Code: GatedRepo\r\n", b"", method);
    }
    let file = rest.split_once('/').unwrap().1;
    match bytes_of(&s, repo, file) {
        None => plain(404, "X-Error-Code: EntryNotFound\r\n", b"", method),
        Some(bytes) => {
            let (digest, size) = (digest(file, &bytes), bytes.len());
            let port = header("host").unwrap().split_once(':').unwrap().1.to_owned();
            let to = format!(
                "Location: http://localhost:{port}/cdn/{repo}/-/{file}\r\nX-Linked-Etag: \"{digest}\"\r\nX-Linked-Size: {size}\r\n"
            );
            plain(302, &to, b"", method)
        }
    }
}

fn bytes_of(s: &State, repo: &str, file: &str) -> Option<Vec<u8>> {
    Some(s.repos.get(repo)?.iter().find(|(name, _)| name == file)?.1.clone())
}

fn listing(files: &[(String, Vec<u8>)], commit: &str, bare: bool) -> String {
    let entry = |(name, bytes): &(String, Vec<u8>)| {
        let (size, digest) = (bytes.len(), digest(name, bytes));
        match (bare, digest.len()) {
            (true, _) => serde_json::json!({ "rfilename": name }),
            (_, 64) => {
                serde_json::json!({ "rfilename": name, "size": size, "blobId": "0".repeat(40), "lfs": { "sha256": digest, "size": size } })
            }
            _ => serde_json::json!({ "rfilename": name, "size": size, "blobId": digest }),
        }
    };
    let files: Vec<_> = files.iter().map(entry).collect();
    serde_json::json!({ "id": "x", "sha": commit, "siblings": files }).to_string()
}

/// As the Hub has it: SHA-256 of what lies in its large storage, git's SHA-1 of the rest.
fn digest(name: &str, bytes: &[u8]) -> String {
    use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
    let hex = |d: ring::digest::Digest| d.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    match name.ends_with(".safetensors") || name.ends_with(".gguf") {
        true => hex(digest(&SHA256, bytes)),
        false => {
            let mut blob = format!("blob {}\0", bytes.len()).into_bytes();
            blob.extend_from_slice(bytes);
            hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob))
        }
    }
}

fn plain(status: u16, headers: &str, body: &[u8], method: &str) -> Answer {
    let mut bytes = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    if method != "HEAD" {
        bytes.extend_from_slice(body);
    }
    Answer { bytes, ends: false }
}

fn ranged(bytes: &[u8], range: Option<String>, fault: Option<Fault>, method: &str) -> Answer {
    let garbled: Vec<u8> = bytes.iter().map(|b| b ^ 1).collect();
    let longer = [bytes, &[0; 4096]].concat();
    let bytes = match fault {
        Some(Fault::Garbled) => &garbled[..],
        Some(Fault::Longer) => &longer[..],
        _ => bytes,
    };
    let from = range.and_then(|r| r.strip_prefix("bytes=")?.split('-').next()?.parse::<usize>().ok());
    let from = from.filter(|_| !matches!(fault, Some(Fault::Whole)));
    let mut answer = match from {
        Some(from) if from >= bytes.len() => plain(416, "", b"", method),
        Some(from) => {
            let range = format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
            plain(206, &range, &bytes[from..], method)
        }
        None => plain(200, "", bytes, method),
    };
    if let Some(Fault::Cut(at)) = fault {
        let head = answer.bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        answer.bytes.truncate(head + at);
        answer.ends = true;
    }
    answer
}
