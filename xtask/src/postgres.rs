//! A throw-away PostgreSQL cluster: fsync on and otherwise small, on a free
//! loopback port without a Unix socket, as an unprivileged user, with a random
//! password, gone with its directory when it is dropped or we die.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::guarded::{Guarded, Preload, Spec, User};
use crate::packages::install;
use crate::workspace::{is_root, on_path, output, run, target};

/// The oldest PostgreSQL that the store supports, as a major version.
pub const VERSION_MIN: u32 = 15;
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Between choosing a free port and PostgreSQL taking it, another process may.
const PORT_ATTEMPTS: u32 = 5;
const SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "shared_buffers=128MB",
    "max_connections=300",
    "max_wal_senders=0",
    "wal_level=minimal",
    "jit=off",
];

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    server: Guarded,
    bin: PathBuf,
    /// Without a database.
    url: String,
}

impl Cluster {
    /// Makes a cluster and waits until it accepts connections; `log` receives
    /// what the server says, and `preload` is loaded into it.
    ///
    /// # Errors
    /// When no PostgreSQL of [`VERSION_MIN`] or later is found or can be
    /// installed, or it does not start.
    pub fn start(log: &Path, preload: Option<&Preload>) -> Result<Self> {
        let bin = binaries()?;
        let user = server_user()?;
        let mut failure = anyhow::anyhow!("no attempt was made");
        for _ in 0..PORT_ATTEMPTS {
            match Self::attempt(&bin, user, log, preload) {
                Ok(cluster) => return Ok(cluster),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn attempt(
        bin: &Path,
        user: Option<User>,
        log: &Path,
        preload: Option<&Preload>,
    ) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("agentry-postgres-").tempdir()?;
        let password = format!("{:032x}", rand::random::<u128>());
        let password_file = dir.path().join("password");
        std::fs::write(&password_file, &password)?;
        if let Some(User { uid, gid }) = user {
            chown(dir.path(), Some(uid), Some(gid))?;
            chown(&password_file, Some(uid), Some(gid))?;
        }
        initdb(bin, &dir.path().join("data"), &password_file, user)?;
        let preload = preload.map(|preload| within_reach(preload, dir.path())).transpose()?;
        let port = free_port()?;
        let server = serve(bin, dir, port, user, log, preload.as_ref())?;
        let url = format!("postgres://postgres:{password}@127.0.0.1:{port}");
        Ok(Self { server, url, bin: bin.to_path_buf() })
    }

    /// How to reach its first database as its owner.
    pub fn url(&self) -> String {
        format!("{}/postgres", self.url)
    }

    /// Makes an empty database and says how to reach it.
    ///
    /// # Errors
    /// When there is one of that name.
    pub fn create_database(&self, name: &str) -> Result<String> {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.arg(self.url()).args(["--quiet", "--no-psqlrc", "--command"]);
        run(psql.arg(format!("CREATE DATABASE \"{name}\"")).stdin(Stdio::null()))?;
        Ok(format!("{}/{name}", self.url))
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }
}

/// The directory of the newest PostgreSQL server programs; installs Debian's
/// package when there are none.
///
/// # Errors
/// When there are none and they cannot be installed.
pub fn binaries() -> Result<PathBuf> {
    if let Some(dir) = installed() {
        return Ok(dir);
    }
    install(&["postgresql"], &format!("PostgreSQL {VERSION_MIN} or later"))?;
    installed().context("the package postgresql brought no server programs")
}

fn installed() -> Option<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = debian.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    let path = on_path("postgres").and_then(|file| {
        // initdb finds its neighbours where it really stands.
        let file = std::fs::canonicalize(file).ok()?;
        Some(file.parent()?.to_path_buf())
    });
    debian
        .chain(path)
        .filter_map(|dir| Some((version(&dir)?, dir)))
        .filter(|(version, _)| *version >= VERSION_MIN)
        .max_by_key(|(version, _)| *version)
        .map(|(_, dir)| dir)
}

fn version(dir: &Path) -> Option<u32> {
    if !dir.join("initdb").is_file() {
        return None;
    }
    // "postgres (PostgreSQL) 15.7 (Debian 15.7-0+deb12u1)"
    let text = output(Command::new(dir.join("postgres")).arg("--version")).ok()?;
    let version = text.split(") ").nth(1)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Whom PostgreSQL runs as: ourselves, or somebody else when we are root,
/// because it refuses to run as root.
///
/// # Errors
/// When there is nobody else.
pub fn server_user() -> Result<Option<User>> {
    if !is_root()? {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        let uid = output(Command::new("id").args(["-u", name]));
        let gid = output(Command::new("id").args(["-g", name]));
        if let (Ok(uid), Ok(gid)) = (uid, gid) {
            return Ok(Some(User { uid: uid.trim().parse()?, gid: gid.trim().parse()? }));
        }
    }
    bail!("neither the user postgres nor nobody exists, and PostgreSQL does not run as root")
}

fn initdb(bin: &Path, data: &Path, password_file: &Path, user: Option<User>) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(bin.join("initdb"));
    command.arg("--pgdata").arg(data).arg("--pwfile").arg(password_file);
    // The password crosses the loopback in the clear: hashing it 4,096 times
    // in a debug build would cost each test's connection a tenth of a second.
    command.args(["--username=postgres", "--auth=password", "--encoding=UTF8", "--locale=C"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).env("LC_ALL", "C").current_dir("/");
    if let Some(User { uid, gid }) = user {
        command.uid(uid).gid(gid);
    }
    run(&mut command)
}

fn serve(
    bin: &Path,
    dir: TempDir,
    port: u16,
    user: Option<User>,
    log: &Path,
    preload: Option<&Preload>,
) -> Result<Guarded> {
    // PostgreSQL says on stderr that it is ready; the guard listens on stdout.
    let mut command = vec!["sh".to_owned(), "-c".to_owned(), r#"exec "$@" 2>&1"#.to_owned()];
    command.push("postgres".to_owned());
    command.push(bin.join("postgres").to_string_lossy().into_owned());
    command.extend(["-D".to_owned(), dir.path().join("data").to_string_lossy().into_owned()]);
    command.extend(["-c".to_owned(), format!("port={port}")]);
    for setting in SETTINGS {
        command.extend(["-c".to_owned(), (*setting).to_owned()]);
    }
    let mut spec = Spec::new(command, log).env("LC_ALL", "C").preload(preload);
    spec.user = user;
    spec.owned = Some(dir.keep());
    // Immediate: what it holds is thrown away, so it need not be flushed.
    spec.signal = "QUIT";
    let mut server = Guarded::start(spec)?;
    server.wait_for(READY_WITHIN, |line| {
        line.contains("database system is ready to accept connections").then_some(())
    })?;
    Ok(server)
}

/// The user of the server may not be able to read the checkout, and a library
/// that cannot be read is passed over with a warning only.
fn within_reach(preload: &Preload, dir: &Path) -> Result<Preload> {
    let library = dir.join("preloaded.so");
    std::fs::copy(&preload.library, &library)?;
    std::fs::set_permissions(&library, std::fs::Permissions::from_mode(0o755))?;
    Ok(Preload { library, env: preload.env.clone() })
}

/// A port of the loopback that was free a moment ago.
///
/// # Errors
/// When none can be bound.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Where the log of a cluster goes that is started for `purpose`.
pub fn log_file(purpose: &str) -> PathBuf {
    target().join(format!("postgres-{purpose}.log"))
}
