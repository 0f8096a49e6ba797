//! `agentry doctor --production`: what has to be so before an installation serves
//! others, and what is well to be so. It looks at settings, files and limits of
//! this machine, and changes nothing.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;

use crate::settings::{Auth, LogFormat, Settings};
use crate::{owner, sealing};

/// Descriptors beside those of connections: files of data, webhooks, models.
const DESCRIPTORS_BESIDE: u64 = 1_024;
/// Room on the disk that a data directory should have.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// Others than the owner have no right to a file whose mode has none of these bits.
const OTHERS: u32 = 0o077;

/// How bad it is when something is not so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Weight {
    /// It must be so.
    Must,
    /// It should be so, unless there is a reason.
    Should,
}

/// One thing that is looked at.
struct Item {
    weight: Weight,
    what: &'static str,
    /// What is so instead; none when it is as it has to be.
    found: Option<String>,
    /// The command that mends it, or shows more of it.
    command: String,
}

/// Looks at everything: a line for each thing, and failure when one that must be
/// so is not.
pub(crate) fn examine(settings: &Settings) -> (String, ExitCode) {
    let items = items(settings);
    let mut lines = Vec::new();
    for item in &items {
        match &item.found {
            None => lines.push(format!("{:>8}  {}", "ok", item.what)),
            Some(found) => {
                let verdict = if item.weight == Weight::Must { "MISSING" } else { "ADVISED" };
                lines.push(format!("{verdict:>8}  {}: {found}", item.what));
            }
        }
        lines.push(format!("{:>8}  $ {}", "", item.command));
    }
    let count = |weight| {
        let of = |item: &&Item| item.weight == weight && item.found.is_some();
        items.iter().filter(of).count()
    };
    let (missing, advised) = (count(Weight::Must), count(Weight::Should));
    lines.push(format!("{} things, {missing} missing, {advised} advised", items.len()));
    let code = if missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    (lines.join("\n"), code)
}

fn items(settings: &Settings) -> Vec<Item> {
    let data = settings.data.display();
    let item = |weight, what, found: Option<String>, command: String| Item {
        weight,
        what,
        found,
        command,
    };
    let is_local = settings.listen.ip().is_loopback();
    let unless = |holds: bool, found: &str| (!holds).then(|| found.to_owned());
    vec![
        item(
            Weight::Must,
            "requests show a key",
            unless(settings.auth == Auth::Keys, "auth is \"none\""),
            "agentry serve --auth keys".to_owned(),
        ),
        item(
            Weight::Must,
            "the owner's key is its owner's alone",
            private(&settings.data.join(owner::FILE_NAME)),
            format!("chmod 600 {data}/{}", owner::FILE_NAME),
        ),
        item(
            Weight::Must,
            "there is a key to seal secrets and the audit with",
            sealing_key(settings),
            match settings.database {
                Some(_) => "export AGENTRY_SEALING_KEY=$(openssl rand -base64 32)".to_owned(),
                None => format!("chmod 600 {data}/{}", sealing::FILE_NAME),
            },
        ),
        item(
            Weight::Must,
            "the data directory is its owner's alone",
            private(&settings.data),
            format!("chmod 700 {data}"),
        ),
        item(
            Weight::Must,
            "there is a descriptor for each connection",
            descriptors(settings),
            format!("ulimit -n {}", settings.connections_max() as u64 + DESCRIPTORS_BESIDE),
        ),
        item(Weight::Must, "the disk has room", room(&settings.data), format!("df -h {data}")),
        item(
            Weight::Must,
            "the connection to PostgreSQL is encrypted",
            plain_database(settings.database.as_deref()),
            "agentry serve --database 'postgres://USER:PASSWORD@HOST/NAME?sslmode=require'"
                .to_owned(),
        ),
        item(
            Weight::Must,
            "calls to this machine's own addresses are refused",
            unless(
                !settings.outbound.loopback_targets_allowed,
                "outbound.loopback_targets_allowed is true",
            ),
            "export AGENTRY_OUTBOUND__LOOPBACK_TARGETS_ALLOWED=false".to_owned(),
        ),
        item(
            Weight::Should,
            "a proxy that speaks TLS stands in front",
            unless(
                is_local || settings.has_trusted_proxies(),
                "it listens to others, and no proxy is trusted to say who they are",
            ),
            "export AGENTRY_HTTP__TRUSTED_PROXIES=10.0.0.0/8".to_owned(),
        ),
        item(
            Weight::Should,
            "callers are limited",
            unless(settings.limits_keys(), "limits.standard has no rate of keys"),
            "export AGENTRY_LIMITS__STANDARD__KEY_PER_MINUTE=1000".to_owned(),
        ),
        item(
            Weight::Should,
            "wrong credentials are limited",
            unless(settings.limits_auth_failures(), "http.auth_failures_per_minute is 0"),
            "export AGENTRY_HTTP__AUTH_FAILURES_PER_MINUTE=60".to_owned(),
        ),
        item(
            Weight::Should,
            "the log is for programs",
            unless(settings.log_format == LogFormat::Json, "log_format is \"text\""),
            "export AGENTRY_LOG_FORMAT=json".to_owned(),
        ),
        item(
            Weight::Should,
            "balancers have time to see that it stops",
            unless(is_local || settings.notices(), "http.notice_ms is 0"),
            "export AGENTRY_HTTP__NOTICE_MS=5000".to_owned(),
        ),
        item(
            Weight::Should,
            "what is stored agrees with itself",
            None,
            format!("agentry doctor --deep --data {data}"),
        ),
        item(
            Weight::Should,
            "what was done is told as it was",
            None,
            format!("agentry audit verify --data {data}"),
        ),
        item(
            Weight::Should,
            "a backup was made, and restored elsewhere",
            None,
            format!("agentry backup FILE --data {data} && agentry restore FILE --data ELSEWHERE"),
        ),
        item(
            Weight::Should,
            "alerts were tested",
            None,
            "promtool test rules deploy/prometheus/alerts.test.yml".to_owned(),
        ),
    ]
}

/// Why a file or a directory is not its owner's alone.
fn private(path: &Path) -> Option<String> {
    match std::fs::metadata(path) {
        Ok(found) if found.mode() & OTHERS == 0 => None,
        Ok(found) => Some(format!("{} has the mode {:o}", path.display(), found.mode() & 0o777)),
        Err(error) => Some(format!("{}: {error}", path.display())),
    }
}

fn sealing_key(settings: &Settings) -> Option<String> {
    match sealing::known(settings) {
        Ok(Some(_)) if settings.sealing_key.is_some() => None,
        Ok(Some(_)) => private(&settings.data.join(sealing::FILE_NAME)),
        Ok(None) => Some("there is none".to_owned()),
        Err(error) => Some(format!("{error:#}")),
    }
}

fn descriptors(settings: &Settings) -> Option<String> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current?;
    let wanted = settings.connections_max() as u64 + DESCRIPTORS_BESIDE;
    (limit < wanted).then(|| format!("there are {limit}, and {wanted} may be needed"))
}

fn room(data: &Path) -> Option<String> {
    match rustix::fs::statvfs(data) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            (free < FREE_BYTES_MIN).then(|| format!("{} MiB are free", free >> 20))
        }
        Err(error) => Some(format!("{}: {error}", data.display())),
    }
}

/// Why a connection to another machine would be in the clear: only when that was
/// asked for.
fn plain_database(database: Option<&str>) -> Option<String> {
    let off = database.is_some_and(|url| url.contains("sslmode=disable"));
    off.then(|| "it has sslmode=disable".to_owned())
}
