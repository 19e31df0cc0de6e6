//! Against a small Hub on loopback.

use super::cache::Found;
use super::client::Client;
use super::fetch::fetch;
use super::name::{HubName, RepoKind};
use super::settings::Settings;
use super::{Event, Watch};
use crate::error::Result;
use server::{COMMIT, Fault, Server};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

#[path = "../../../tests/common/hub_server.rs"]
mod server;

/// A server with a model, and a cache of the test's own.
struct Bench {
    server: Server,
    settings: Settings,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
        for (file, bytes) in [
            ("config.json", "{}"),
            ("tokenizer.json", "{\"a\": 1}"),
            ("README.md", "read me"),
            ("pytorch_model.bin", "never"),
            ("model.safetensors.index.json", INDEX),
        ] {
            server.put("org/name", file, bytes.as_bytes());
        }
        (1..=2u8).for_each(|i| server.put("org/name", &format!("model-0000{i}-of-00002.safetensors"), &shard(i)));
        let settings = Settings {
            endpoint: server.address.clone(),
            cache: folder.path().join("hub"),
            token: None,
            offline: false,
        };
        Bench { server, settings, folder }
    }

    fn fetch(&self, name: &str) -> Result<Found, String> {
        self.fetch_kind(name, RepoKind::Model, &|_| true)
    }

    fn fetch_kind(&self, name: &str, kind: RepoKind, watch: Watch<'_>) -> Result<Found, String> {
        let name = HubName::of(Path::new(name), kind).unwrap().unwrap();
        // proxies are for others
        let client = Client::with_pause(self.settings.clone(), Duration::from_millis(1));
        fetch(&self.settings, &client, &name, watch).map_err(|e| e.to_string())
    }

    #[track_caller]
    fn refused(&self, name: &str, parts: &[&str]) {
        let said = self.fetch(name).unwrap_err();
        assert!(said.starts_with(name) && !said.contains('\n'), "{said}");
        parts.iter().for_each(|part| assert!(said.contains(part), "{part} in {said}"));
    }

    fn blob(&self, end: &str) -> Option<std::path::PathBuf> {
        let blobs = std::fs::read_dir(self.settings.cache.join("models--org--name/blobs")).ok()?;
        blobs.flatten().map(|e| e.path()).find(|p| p.to_str().unwrap().ends_with(end))
    }
}

const INDEX: &str =
    r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;

/// More bytes than one read has.
fn shard(seed: u8) -> Vec<u8> {
    (0..700_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect()
}

#[test]
fn a_model_is_fetched_once_into_the_shared_layout() {
    let bench = Bench::new();
    let found = bench.fetch("hf:org/name").unwrap();
    let folder = bench.settings.cache.join("models--org--name");
    assert_eq!(
        (found.path.as_path(), found.commit.as_str()),
        (folder.join("snapshots").join(COMMIT).as_path(), COMMIT)
    );
    assert_eq!(std::fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(std::fs::read(found.path.join("model-00002-of-00002.safetensors")).unwrap(), shard(2));
    assert!(!found.path.join("README.md").exists() && !found.path.join("pytorch_model.bin").exists());
    assert_eq!(std::fs::read_dir(folder.join("blobs")).unwrap().count(), 5);
    if cfg!(unix) {
        let link = std::fs::read_link(found.path.join("config.json")).unwrap();
        assert!(link.starts_with("../../blobs"), "{link:?}");
    }
    bench.server.log();
    assert_eq!(bench.fetch("hf:org/name").unwrap(), found);
    assert_eq!(bench.server.log(), ["GET /api/models/org/name/revision/main?blobs=true"]);
}

#[test]
fn a_file_of_a_data_set_at_a_revision_is_fetched_alone() {
    let bench = Bench::new();
    bench.server.put("datasets/org/rows", "data/train.jsonl", b"{\"text\": 1}\n");
    let found = bench.fetch_kind("hf:org/rows@v1/data/train.jsonl", RepoKind::Dataset, &|_| true).unwrap();
    assert!(
        found.path.ends_with("datasets--org--rows/snapshots/0123456789abcdef0123456789abcdef01234567/data/train.jsonl")
    );
    assert_eq!(std::fs::read(&found.path).unwrap(), b"{\"text\": 1}\n");
    assert!(bench.fetch_kind("hf:org/rows@refs/pr/1/data/train.jsonl", RepoKind::Dataset, &|_| true).is_ok());
}

#[test]
fn broken_connections_are_resumed_where_they_broke() {
    let bench = Bench::new();
    let file = "model-00001-of-00002.safetensors";
    // the Hub's first answer breaks in its middle, the next in its head
    bench.server.faults(file, &[Fault::Status(503, ""), Fault::Status(429, "Retry-After: 0\r\n")]);
    bench.server.faults(&format!("-/{file}"), &[Fault::Cut(300_000), Fault::Cut(0), Fault::Cut(100_000)]);
    let found = bench.fetch("hf:org/name").unwrap();
    assert_eq!(std::fs::read(found.path.join(file)).unwrap(), shard(1));
    let log = bench.server.log();
    let ranges =
        |range: &str| log.iter().filter(|l| l.contains("/cdn/") && l.contains(file) && l.ends_with(range)).count();
    assert_eq!((ranges("bytes=300000-"), ranges("bytes=400000-")), (2, 1), "{log:#?}");
}

#[test]
fn what_arrived_in_another_process_is_kept_and_gone_on_with() {
    let bench = Bench::new();
    let file = "model-00001-of-00002.safetensors";
    let stop = |event: Event<'_>| !matches!(event, Event::Bytes { file: f, done } if f == file && done >= 262_144);
    assert_eq!(bench.fetch_kind("hf:org/name", RepoKind::Model, &stop).unwrap_err(), "interrupted");
    let part = std::fs::metadata(bench.blob(".incomplete").unwrap()).unwrap().len();
    assert!((262_144..700_001).contains(&part), "{part}");
    bench.server.log();
    // a server that does not know ranges sends all of it
    bench.server.faults(&format!("-/{file}"), &[Fault::Whole]);
    let found = bench.fetch("hf:org/name").unwrap();
    assert_eq!(std::fs::read(found.path.join(file)).unwrap(), shard(1));
    assert!(bench.server.log().iter().any(|l| l.ends_with(&format!("bytes={part}-"))));
    assert!(bench.blob(".incomplete").is_none());
}

#[test]
fn what_is_not_what_the_hub_has_is_thrown_away() {
    let bench = Bench::new();
    bench.server.faults("/config.json", &[Fault::Status(302, "Location: /cdn/org/name/-/config.json\r\n")]);
    bench.server.faults("-/config.json", &[Fault::Garbled]);
    bench.refused("hf:org/name", &["config.json", "its digest differs", "try again"]);
    assert!(bench.blob(".incomplete").is_none());
    // what comes behind its end is not the file's
    bench.server.faults("-/tokenizer.json", &[Fault::Longer]);
    // a part of something else is begun again
    let found = bench.fetch("hf:org/name").unwrap();
    let blob = std::fs::canonicalize(found.path.join("tokenizer.json")).unwrap();
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(blob.with_extension("incomplete"), "xx").unwrap();
    bench.fetch("hf:org/name").unwrap();
    assert_eq!(std::fs::read(&blob).unwrap(), b"{\"a\": 1}");
}

#[test]
fn etags_are_asked_for_where_the_listing_has_none() {
    let bench = Bench::new();
    bench.server.without_digests();
    let found = bench.fetch("hf:org/name").unwrap();
    assert_eq!(std::fs::read(found.path.join("model-00001-of-00002.safetensors")).unwrap(), shard(1));
    assert!(bench.server.log().iter().any(|l| l.starts_with("HEAD ") && l.contains("config.json")));
}

#[test]
fn what_is_not_there_or_not_for_everybody_is_said_in_a_line() {
    let mut bench = Bench::new();
    bench.refused("hf:org/nme", &["has no public model of this name", "HF_TOKEN"]);
    bench.refused("hf:org/name@v9", &["there is no revision v9"]);
    bench.refused("hf:org/name/config.jso", &["did you mean config.json?"]);
    bench.server.gate("org/name", "hf_right");
    bench.refused("hf:org/name", &["ask for access at http://127.0.0.1", "/org/name", "HF_TOKEN"]);
    bench.settings.token = Some("hf_wrong".into());
    bench.refused("hf:org/name", &["have not let you in"]);
    bench.settings.token = Some("hf_right".into());
    bench.server.log();
    bench.fetch("hf:org/name").unwrap();
    let log = bench.server.log();
    assert!(log.iter().any(|l| l.contains("/cdn/")), "{log:#?}");
    // only the Hub itself sees the token
    assert!(log.iter().all(|l| l.ends_with("Bearer hf_right") != l.contains("/cdn/")), "{log:#?}");
    bench.server.faults("main", &[Fault::Status(401, "")]);
    bench.refused("hf:org/name", &["does not accept the token"]);
}

#[test]
fn a_repository_that_was_renamed_gets_the_token_still() {
    for bare in [false, true] {
        let mut bench = Bench::new();
        if bare {
            bench.server.without_digests();
        }
        bench.server.rename("org/old", "org/name");
        bench.server.gate("org/name", "hf_right");
        bench.settings.token = Some("hf_right".into());
        let found = bench.fetch("hf:org/old").unwrap();
        assert_eq!(std::fs::read(found.path.join("model-00001-of-00002.safetensors")).unwrap(), shard(1));
        let log = bench.server.log();
        assert!(log.iter().all(|l| l.ends_with("Bearer hf_right") != l.contains("/cdn/")), "{log:#?}");
    }
}

#[test]
fn without_a_network_the_cache_is_used_or_the_way_out_said() {
    let mut bench = Bench::new();
    bench.settings.offline = true;
    bench.refused("hf:org/name", &["is not in the cache", "HF_HUB_OFFLINE is set"]);
    bench.settings.offline = false;
    let found = bench.fetch("hf:org/name").unwrap();
    // nobody listens there any more
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    bench.settings.endpoint = format!("http://{port}");
    bench.refused("hf:org/other", &["cannot be reached", "the cache does not have it", "HF_ENDPOINT"]);
    let notes = Mutex::new(Vec::new());
    let watch = |event: Event<'_>| {
        if let Event::Note(text) = event {
            notes.lock().unwrap().push(text.to_owned());
        }
        true
    };
    assert_eq!(bench.fetch_kind("hf:org/name", RepoKind::Model, &watch).unwrap(), found);
    assert!(notes.lock().unwrap()[0].contains("taken from the cache, commit 0123456789"), "{notes:?}");
    bench.settings.offline = true;
    assert_eq!(bench.fetch("hf:org/name").unwrap(), found);
    assert_eq!(bench.fetch(&format!("hf:org/name@{COMMIT}")).unwrap(), found);
    std::fs::remove_file(found.path.join("model-00002-of-00002.safetensors")).unwrap();
    bench.refused("hf:org/name", &["is not in the cache"]);
    assert!(bench.folder.path().join("hub/.locks").exists());
}

#[test]
fn a_server_that_only_fails_is_given_up() {
    let bench = Bench::new();
    bench.server.faults("main", &vec![Fault::Status(500, ""); 5]);
    bench.refused("hf:org/name", &["cannot be reached (it answers 500)"]);
    bench.server.put("org/name", "../../../evil", b"x");
    bench.fetch("hf:org/name").unwrap();
    assert!(!bench.folder.path().join("evil").exists());
    bench.server.commit("../../elsewhere");
    bench.refused("hf:org/name@v1", &["does not answer as the Hub does: no commit"]);
}
