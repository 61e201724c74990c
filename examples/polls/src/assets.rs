//! The style sheet, the script and the icon: in the program, under addresses that change with them.

use std::fmt;
use std::sync::LazyLock;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use sha2::{Digest, Sha256};

use crate::app::App;

/// Browsers may keep what they have: another text has another address.
const FOR_GOOD: &str = "public, max-age=31536000, immutable";

pub(crate) static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new(
        "/static/style.css",
        "text/css; charset=utf-8",
        include_str!("../assets/style.css"),
    )
});
pub(crate) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new(
        "/static/live.js",
        "text/javascript; charset=utf-8",
        include_str!("../assets/live.js"),
    )
});
pub(crate) static ICON: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new(
        "/static/icon.svg",
        "image/svg+xml",
        include_str!("../assets/icon.svg"),
    )
});

/// A file of ours.
pub(crate) struct Asset {
    path: &'static str,
    media_type: &'static str,
    text: &'static str,
    version: String,
}

impl Asset {
    fn new(path: &'static str, media_type: &'static str, text: &'static str) -> Self {
        let digest = Sha256::digest(text);
        Self {
            path,
            media_type,
            text,
            version: digest[..6]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        }
    }
}

/// The address, as pages name it.
impl fmt::Display for Asset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}?v={}", self.path, self.version)
    }
}

pub(crate) fn routes() -> Router<App> {
    let assets: [&'static LazyLock<Asset>; 3] = [&STYLE, &SCRIPT, &ICON];
    assets.into_iter().fold(Router::new(), |router, asset| {
        let headers = [
            (header::CONTENT_TYPE, asset.media_type),
            (header::CACHE_CONTROL, FOR_GOOD),
        ];
        router.route(
            asset.path,
            get(move || async move { (headers, asset.text) }),
        )
    })
}
