//! The key that secrets are sealed with: from the settings or, with SQLite, from
//! `DIR/sealing.key`, which is made when nothing was sealed yet.

use agentry_engine::{Engine, SealingKey};
use anyhow::Context as _;

use crate::owner;
use crate::settings::Settings;

/// Where the key is kept in the data directory.
pub(crate) const FILE_NAME: &str = "sealing.key";

/// Gives the engine its key. One that is not the key of what was sealed stops the
/// start; none at all does not: what needs it says so.
pub(crate) async fn ensure(engine: &Engine, settings: &Settings) -> anyhow::Result<()> {
    let Some(key) = find(engine, settings).await? else {
        if engine.sealing_is_used().await? {
            tracing::error!(
                "secrets of this installation are sealed, and this server has no sealing_key: \
                 webhooks are not delivered"
            );
        }
        return Ok(());
    };
    engine.sealing_use(key);
    engine.sealing_check().await.map_err(|error| anyhow::anyhow!(error.detail))
}

async fn find(engine: &Engine, settings: &Settings) -> anyhow::Result<Option<SealingKey>> {
    if let Some(key) = &settings.sealing_key {
        return Ok(Some(key.clone()));
    }
    // What several processes share must not be made by one of them.
    if settings.database.is_some() {
        return Ok(None);
    }
    let path = settings.data.join(FILE_NAME);
    if let Some(text) = owner::read(&path)? {
        let key = SealingKey::parse(&text);
        return key.map(Some).with_context(|| format!("{} has no key in it", path.display()));
    }
    if engine.sealing_is_used().await? {
        return Ok(None);
    }
    let key = engine.sealing_key_new();
    match owner::keep(&path, &key.to_text()) {
        Ok(()) => Ok(Some(key)),
        // A full disk is no reason not to serve what is on it.
        Err(error) => {
            tracing::warn!(%error, "the sealing key could not be kept, so nothing is sealed");
            Ok(None)
        }
    }
}

/// The key of an installation, as a command that only reads finds it.
pub(crate) fn known(settings: &Settings) -> anyhow::Result<Option<SealingKey>> {
    if let Some(key) = &settings.sealing_key {
        return Ok(Some(key.clone()));
    }
    if settings.database.is_some() {
        return Ok(None);
    }
    let path = settings.data.join(FILE_NAME);
    let Some(text) = owner::read(&path)? else { return Ok(None) };
    let key = SealingKey::parse(&text);
    key.map(Some).with_context(|| format!("{} has no key in it", path.display()))
}
