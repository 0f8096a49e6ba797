//! Child processes that cannot outlive us. Each runs under a small shell that
//! holds the read end of a pipe from us: when we close it, or die in whatever
//! way (Ctrl-C, SIGKILL), the shell sees the end of the pipe, stops the child
//! by its id and goes. The group is the shell's own, so that a Ctrl-C at the
//! terminal does not reach the child before that.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a child may take to stop before it is killed.
pub const STOP_WITHIN: Duration = Duration::from_secs(20);

// $1 is the signal that stops the child, $2 the directory that goes with it or
// nothing, the rest its command line. The child says its own id on the first
// line before it becomes the command, so that nothing can come before it; the
// command's stdout follows on the same pipe, which the guarding shell gives up
// so that the end of the pipe means the child's end.
const WATCH: &str = r#"
signal=$1; owned=$2; shift 2
sh -c 'echo "$$"; exec "$@"' child "$@" &
pid=$!
exec >/dev/null 2>&1
cat
kill -s "$signal" "$pid"
wait "$pid"
if [ -n "$owned" ]; then rm -rf -- "$owned"; fi
"#;

/// Whom a child runs as.
#[derive(Clone, Copy, Debug)]
pub struct User {
    /// The numeric user id.
    pub uid: u32,
    /// The numeric group id.
    pub gid: u32,
}

/// A library that is loaded before all others, and the variable that it reads.
#[derive(Clone, Debug)]
pub struct Preload {
    /// The library.
    pub library: PathBuf,
    /// A name and its value.
    pub env: (&'static str, String),
}

/// What to start.
#[derive(Debug)]
pub struct Spec {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Added to our own environment.
    pub env: Vec<(String, String)>,
    /// Whom it runs as; ourselves when `None`.
    pub user: Option<User>,
    /// A directory that is removed once it has ended.
    pub owned: Option<PathBuf>,
    /// The signal that asks it to stop, as `kill -s` names it.
    pub signal: &'static str,
    /// Receives its stderr, and its stdout too.
    pub log: PathBuf,
}

impl Spec {
    /// A program that stops on SIGTERM and runs as we do.
    pub fn new<S: Into<String>>(command: impl IntoIterator<Item = S>, log: &Path) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            user: None,
            owned: None,
            signal: "TERM",
            log: log.to_path_buf(),
        }
    }

    /// Adds a variable to its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Loads a library into it, when there is one.
    #[must_use]
    pub fn preload(self, preload: Option<&Preload>) -> Self {
        match preload {
            Some(Preload { library, env: (name, value) }) => {
                self.env("LD_PRELOAD", library.to_string_lossy()).env(name, value)
            }
            None => self,
        }
    }
}

/// A running child. Dropping it stops it.
#[derive(Debug)]
pub struct Guarded {
    name: String,
    pid: u32,
    shell: Child,
    lines: Option<Receiver<String>>,
    ended: Receiver<()>,
    log: PathBuf,
}

impl Guarded {
    /// Starts a child.
    ///
    /// # Errors
    /// When the shell cannot be started or the log cannot be written.
    pub fn start(spec: Spec) -> Result<Self> {
        let name = spec.command.first().cloned().unwrap_or_default();
        let mut log =
            File::create(&spec.log).with_context(|| format!("cannot write {:?}", spec.log))?;
        let mut command = Command::new("sh");
        command.arg("-c").arg(WATCH).arg("guard").arg(spec.signal);
        command.arg(spec.owned.unwrap_or_default()).args(&spec.command);
        command.envs(spec.env).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log.try_clone()?);
        if let Some(User { uid, gid }) = spec.user {
            command.uid(uid).gid(gid).current_dir("/");
        }
        let mut shell = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let stdout = shell.stdout.take().context("the pipe was asked for")?;
        let mut stdout = BufReader::new(stdout).lines();
        let pid = stdout
            .next()
            .context("the guarding shell said nothing")??
            .parse()
            .context("the guarding shell gave no process id")?;

        let (line, lines) = channel();
        let (end, ended) = channel();
        std::thread::spawn(move || {
            for text in stdout.map_while(Result::ok) {
                // Neither a full disk nor a caller that has heard enough may
                // stop the child's output from being read.
                let _ = writeln!(log, "{text}");
                let _ = line.send(text);
            }
            drop(end);
        });
        Ok(Self { name, pid, shell, lines: Some(lines), ended, log: spec.log })
    }

    /// The child's own process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Reads its stdout until a line says what is waited for; later lines go
    /// to the log alone.
    ///
    /// # Errors
    /// When it ends or the time passes before such a line; the error shows the
    /// end of its log.
    pub fn wait_for<T>(&mut self, within: Duration, said: impl Fn(&str) -> Option<T>) -> Result<T> {
        let lines = self.lines.take().context("its lines were read already")?;
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some(found) = said(&line) {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{} was not ready within {within:?}: {}", self.name, self.log_end())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("{} ended before it was ready: {}", self.name, self.log_end())
                }
            }
        }
    }

    /// Stops the child and waits until it is gone.
    ///
    /// # Errors
    /// When the shell that guards it cannot be waited for.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        drop(self.shell.stdin.take());
        if let Err(RecvTimeoutError::Timeout) = self.ended.recv_timeout(STOP_WITHIN) {
            let mut kill = Command::new("kill");
            kill.args(["-s", "KILL"]).arg(self.pid.to_string()).status()?;
        }
        self.shell.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }

    fn log_end(&self) -> String {
        const SHOWN_LINES: usize = 15;
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(pid: u32) -> bool {
        // A zombie is gone for our purpose: only its parent has not asked yet.
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn a_child_is_heard_and_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let owned = dir.path().join("owned");
        std::fs::create_dir(&owned).unwrap();
        let mut spec =
            Spec::new(["sh", "-c", "echo ready 7; exec sleep 600"], &dir.path().join("log"));
        spec.owned = Some(owned.clone());
        let mut child = Guarded::start(spec).unwrap();
        let heard = child.wait_for(Duration::from_secs(60), |line| {
            line.strip_prefix("ready ").map(str::to_owned)
        });
        assert_eq!(heard.unwrap(), "7");
        let pid = child.pid();
        assert!(runs(pid));
        child.stop().unwrap();
        assert!(!runs(pid));
        assert!(!owned.exists());
    }

    #[test]
    fn a_child_that_ends_early_is_reported_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let spec = Spec::new(["sh", "-c", "echo no disk >&2"], &dir.path().join("log"));
        let mut child = Guarded::start(spec).unwrap();
        let error =
            child.wait_for(Duration::from_secs(60), |line| Some(line.to_owned())).unwrap_err();
        assert!(error.to_string().contains("no disk"), "{error}");
    }
}
