//! Where the Hub is, and where what comes from it lies: as `huggingface_hub` has it, so that both share one cache.

use crate::env::{self, HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN, HF_TOKEN_PATH};
use crate::error::{Error, Result};
use std::path::PathBuf;

/// The Hub's address, where no other is given.
const ENDPOINT: &str = "https://huggingface.co";
/// The cache folder inside of [`HF_HOME`].
const CACHE: &str = "hub";
/// The file that `hf auth login` writes, inside of [`HF_HOME`].
const TOKEN_FILE: &str = "token";
/// Bytes of a token's file, at most.
const LONGEST_TOKEN: u64 = 4096;

/// What the environment says about the Hub.
#[derive(Clone)]
pub struct Settings {
    /// Without a slash at its end.
    pub endpoint: String,
    /// The folder of all repositories.
    pub cache: PathBuf,
    pub token: Option<String>,
    /// Only what is in the cache is used.
    pub offline: bool,
}

impl Settings {
    /// # Errors
    /// [`Error::Usage`] for a value that cannot be meant; [`Error::Io`] for a token's file that cannot be read.
    pub fn from_env() -> Result<Settings> {
        let text = |name: &str| env::system(name).and_then(|v| v.into_string().ok());
        let folder = |name: &str| env::system(name).map(PathBuf::from);
        let user = || folder("HOME").or_else(|| folder("USERPROFILE"));
        let home = folder(HF_HOME)
            .or_else(|| folder("XDG_CACHE_HOME").map(|f| f.join("huggingface")))
            .or_else(|| user().map(|f| f.join(".cache").join("huggingface")));
        let cache = folder(HF_HUB_CACHE).or_else(|| home.as_ref().map(|f| f.join(CACHE)));
        let cache = cache.ok_or_else(|| {
            Error::invalid(HF_HOME, "is not set, and neither is HOME: set it to a folder to download to").as_usage()
        })?;
        let endpoint = text(HF_ENDPOINT).unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if !(endpoint.starts_with("https://") || endpoint.starts_with("http://")) {
            let reason = format!("\"{endpoint}\" is no address of a server, as {ENDPOINT} is");
            return Err(Error::invalid(HF_ENDPOINT, reason).as_usage());
        }
        let offline = text(HF_HUB_OFFLINE).is_some_and(|v| is_on(&v));
        let token = match text(HF_TOKEN) {
            Some(token) => clean(&token),
            None => {
                let file = folder(HF_TOKEN_PATH).or_else(|| home.map(|f| f.join(TOKEN_FILE)));
                file.filter(|f| f.is_file())
                    .map(|f| crate::io::kind::read_up_to(&f, LONGEST_TOKEN))
                    .transpose()?
                    .and_then(|bytes| clean(&String::from_utf8_lossy(&bytes)))
            }
        };
        Ok(Settings { endpoint, cache, token, offline })
    }
}

/// As `huggingface_hub` reads switches.
fn is_on(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.trim().to_uppercase().as_str())
}

/// A token without what is around it; none where it is no token.
fn clean(token: &str) -> Option<String> {
    let token = token.trim();
    (!token.is_empty() && token.chars().all(|c| c.is_ascii_graphic())).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_switches_are_read_as_elsewhere() {
        assert_eq!(clean(" hf_abc\r\n"), Some("hf_abc".into()));
        assert_eq!(clean("\n"), None);
        assert_eq!(clean("a\r\nX-Other: b"), None, "no header hides in a token");
        assert!(is_on("1") && is_on("true") && is_on("Yes") && !is_on("0") && !is_on("off"));
    }
}
