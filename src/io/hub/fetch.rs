//! Brings what a name stands for into the cache.

use super::cache::{Found, RepoCache, shards};
use super::client::{Client, Failure, Listing};
use super::name::HubName;
use super::part::{Part, RemoteFile};
use super::pick::{Wanted, wanted};
use super::settings::Settings;
use super::{Event, Watch};
use crate::env::{HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE};
use crate::error::{Error, Result};
use crate::io::disk::create_folder;
use crate::io::safetensors::INDEX;

/// Finds `name` in the cache, or fetches what of it is missing there.
///
/// # Errors
/// [`Error::Invalid`] with the name, the reason and the way out; [`Error::Io`]; [`Error::Interrupted`] where `watch` wants no more.
/// What has arrived of a file stays for the next try.
pub fn fetch(settings: &Settings, client: &Client, name: &HubName, watch: Watch<'_>) -> Result<Found> {
    let cache = RepoCache::of(settings, name);
    if settings.offline {
        let reason = format!(
            "is not in the cache, {}, and {HF_HUB_OFFLINE} is set: unset it to download",
            settings.cache.display()
        );
        return cache.find(name).ok_or_else(|| name.error(reason));
    }
    let listing = match client.listing(name, watch) {
        Ok(listing) => listing,
        Err(Failure::Error(e)) => return Err(e),
        Err(Failure::Unreachable(reason)) => {
            let Some(found) = cache.find(name) else {
                let reason =
                    format!("{reason}, and the cache does not have it; check the network, its proxy and {HF_ENDPOINT}");
                return Err(name.error(reason));
            };
            watch(Event::Note(&format!("{name}: {reason}; taken from the cache, commit {}", short(&found.commit))));
            return Ok(found);
        }
    };
    let names: Vec<String> = listing.files.iter().map(|f| f.path.clone()).collect();
    let fetcher = Fetcher { settings, client, name, cache, listing, watch };
    let files = match wanted(name, &names)? {
        Wanted::Files(files) => files,
        Wanted::Indexed(mut files) => {
            fetcher.all(&files)?;
            let index = fetcher.cache.snapshot(&fetcher.listing.commit).join(INDEX);
            files.extend(shards(&index)?);
            files
        }
    };
    fetcher.all(&files)?;
    fetcher.cache.note_commit(name.revision(), &fetcher.listing.commit)?;
    let commit = fetcher.listing.commit;
    let snapshot = fetcher.cache.snapshot(&commit);
    let path = name.file.as_ref().map_or(snapshot.clone(), |_| snapshot.join(&files[0]));
    Ok(Found { path, commit })
}

/// The first letters of a commit, as people write them.
fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}

struct Fetcher<'a> {
    settings: &'a Settings,
    client: &'a Client,
    name: &'a HubName,
    cache: RepoCache,
    listing: Listing,
    watch: Watch<'a>,
}

impl Fetcher<'_> {
    /// Fetches those of `files` that are missing.
    fn all(&self, files: &[String]) -> Result<()> {
        let snapshot = self.cache.snapshot(&self.listing.commit);
        let mut missing = Vec::new();
        for file in files.iter().filter(|f| !snapshot.join(f.as_str()).exists()) {
            missing.push(self.identified(file)?);
        }
        if missing.is_empty() {
            return Ok(());
        }
        let blobs = self.cache.blob("");
        create_folder(&blobs)?;
        let left = |f: &(RemoteFile, String)| {
            let here = |path| std::fs::metadata(path).map_or(0, |m| m.len());
            let size = f.0.size.unwrap_or(0);
            size.saturating_sub(here(self.cache.blob(&f.1)).max(here(self.cache.incomplete(&f.1))))
        };
        let bytes: u64 = missing.iter().map(left).sum();
        self.check_room(bytes)?;
        (self.watch)(Event::Begin { name: &self.name.to_string(), files: missing.len(), bytes });
        for (file, etag) in &missing {
            self.one(file, etag)?;
        }
        (self.watch)(Event::End);
        Ok(())
    }

    /// A file with its digest, which names its blob.
    fn identified(&self, path: &str) -> Result<(RemoteFile, String)> {
        let listed = self.listing.files.iter().find(|f| f.path == path);
        let listed = listed.ok_or_else(|| self.name.error(format!("has no {path}, which its {INDEX} names")))?;
        let file = match listed.etag {
            Some(_) => listed.clone(),
            None => {
                self.client.identify(self.name, &self.listing.commit, path, self.watch).map_err(|f| self.told(f))?
            }
        };
        let is_name = |e: &String| {
            (1..=128).contains(&e.len()) && e.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        match file.etag.clone().filter(is_name) {
            Some(etag) => Ok((file, etag)),
            None => Err(self.name.error(format!("{path} has no ETag, by which it could be told; check {HF_ENDPOINT}"))),
        }
    }

    /// Fetches one file, unless another process does.
    fn one(&self, file: &RemoteFile, etag: &str) -> Result<()> {
        let commit = &self.listing.commit;
        let _lock = self.cache.lock(etag, || {
            (self.watch)(Event::Note(&format!("waiting for another process that fetches {}", file.path)));
        })?;
        let blob = self.cache.blob(etag);
        if blob.exists() {
            return self.cache.link(commit, &file.path, etag).map(drop);
        }
        let mut part = Part::open(&self.cache.incomplete(etag), file.size, etag)?;
        let mut resumed = part.length > 0;
        loop {
            let done = self.client.download(self.name, commit, &file.path, &mut part, self.watch);
            done.map_err(|f| self.told(f))?;
            if part.is_right() {
                break;
            }
            if !resumed {
                part.remove()?;
                let reason = format!(
                    "{}: what arrived is not what the Hub has (its digest differs), and was thrown away; try again, and if it repeats \
                     look for a proxy that changes files",
                    file.path
                );
                return Err(self.name.error(reason));
            }
            // what lay there may have been another file's
            part.clear()?;
            resumed = false;
        }
        part.finish(&blob)?;
        self.cache.link(commit, &file.path, etag).map(drop)
    }

    /// A failure where a file was being fetched.
    fn told(&self, failure: Failure) -> Error {
        match failure {
            Failure::Error(error) => error,
            Failure::Unreachable(reason) => {
                self.name.error(format!("{reason}; what has arrived is kept: start again to go on from there"))
            }
        }
    }

    fn check_room(&self, bytes: u64) -> Result<()> {
        // where the system does not tell, the disk itself will
        let Ok(free) = fs4::available_space(&self.settings.cache) else { return Ok(()) };
        if bytes <= free {
            return Ok(());
        }
        let reason = format!(
            "{bytes} bytes are to be fetched, but {} has room for {free}; make room, or set {HF_HOME} to a folder on another disk",
            self.settings.cache.display()
        );
        Err(self.name.error(reason))
    }
}
