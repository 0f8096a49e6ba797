//! A server's process: started in a group, a directory and an environment of its
//! own, and ended with all of its group, also when this process is killed outright:
//! a shell waits for the end of a pipe from here, and kills the group then. A
//! program that leaves its group on purpose (`setsid`) is not followed.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::{Code, Error, Result};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

/// How long a process has to go by itself when its input ends.
const GOES_WITHIN: Duration = Duration::from_millis(1_500);
/// How long it has after SIGTERM.
const TERMINATES_WITHIN: Duration = Duration::from_millis(500);
/// How often it is looked whether a group is gone.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Bytes of what it last wrote to its standard error that are kept.
const COMPLAINT_BYTES_MAX: usize = 4 * 1_024;
/// A value of the environment that is shorter is no secret.
const HIDDEN_BYTES_MIN: usize = 6;
/// Variables of this process's environment that a child gets: where programs are,
/// and how text is written.
const PASSED_ON: [&str; 3] = ["PATH", "LANG", "LC_ALL"];

/// A program to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) command: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
}

/// A process that runs.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    group: Pid,
    /// Its working directory and home, which goes with it.
    dir: TempDir,
    watch: Option<Watch>,
    complaint: Complaint,
}

/// Kills a group when this process, or the value, goes away without saying that the
/// group is gone.
#[derive(Debug)]
struct Watch {
    shell: Child,
    pipe: ChildStdin,
}

impl Watch {
    /// What the shell does: a line says that there is nothing to do.
    const SCRIPT: &str = r#"read -r _ || kill -9 "-$1""#;

    fn over(group: Pid) -> Option<Self> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", Self::SCRIPT, "watch", &group.as_raw_nonzero().to_string()])
            .env_clear()
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match command.spawn() {
            Ok(mut shell) => {
                let pipe = shell.stdin.take()?;
                Some(Self { shell, pipe })
            }
            Err(error) => {
                tracing::warn!(%error, "nothing ends the processes of MCP servers if this one is \
                    killed");
                None
            }
        }
    }

    /// The group is gone.
    async fn dismiss(mut self) {
        if self.pipe.write_all(b"\n").await.is_ok() {
            drop(self.pipe);
            let _ = self.shell.wait().await;
        }
    }
}

/// The end of what a process wrote to its standard error.
#[derive(Clone, Debug)]
pub(crate) struct Complaint {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// What it was given and may have repeated.
    hidden: Arc<[String]>,
}

impl Complaint {
    /// Its last line, for people.
    pub(crate) fn last_line(&self) -> Option<String> {
        let bytes = self.bytes.lock();
        let text = String::from_utf8_lossy(&bytes);
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
        let hide = |line: String, secret: &String| line.replace(secret.as_str(), "[hidden]");
        let line = self.hidden.iter().fold(line.to_owned(), hide);
        Some(line.chars().filter(|c| !c.is_control()).take(300).collect())
    }

    fn hiding(env: &BTreeMap<String, String>) -> Self {
        let worth_hiding = |value: &&String| value.len() >= HIDDEN_BYTES_MIN;
        let hidden = env.values().filter(worth_hiding).cloned().collect();
        Self { bytes: Arc::default(), hidden }
    }

    fn add(&self, more: &[u8]) {
        let mut bytes = self.bytes.lock();
        bytes.extend_from_slice(more);
        let goes = bytes.len().saturating_sub(COMPLAINT_BYTES_MAX);
        bytes.drain(..goes);
    }

    /// Reads a process's standard error to its end, so that it never waits for a
    /// reader.
    pub(crate) async fn listen(self, mut from: ChildStderr) {
        let mut piece = [0; 1_024];
        while let Ok(read) = from.read(&mut piece).await {
            if read == 0 {
                return;
            }
            self.add(&piece[..read]);
        }
    }
}

/// The ends of a process's pipes.
pub(crate) struct Pipes {
    pub(crate) input: ChildStdin,
    pub(crate) output: ChildStdout,
    pub(crate) complaints: ChildStderr,
}

impl Process {
    /// Starts a program.
    pub(crate) fn start(program: &Program) -> Result<(Self, Pipes)> {
        let failed = |error: std::io::Error| {
            let detail = format!("{:?} could not be started: {error}", program.command);
            Error::new(Code::McpUnreachable, detail)
        };
        let dir = tempfile::Builder::new().prefix("agentry-mcp-").tempdir().map_err(failed)?;
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(dir.path(), private).map_err(failed)?;
        let mut command = Command::new(&program.command);
        command
            .args(&program.args)
            .env_clear()
            .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("HOME", dir.path())
            .env("TMPDIR", dir.path())
            .envs(&program.env)
            .current_dir(dir.path())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let gone = || Error::new(Code::McpUnreachable, "the process was gone at once");
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(group), (Some(input), Some(output), Some(complaints))) = (id, pipes) else {
            return Err(gone());
        };
        let watch = Watch::over(group);
        let complaint = Complaint::hiding(&program.env);
        let process = Self { child, group, dir, watch, complaint };
        Ok((process, Pipes { input, output, complaints }))
    }

    pub(crate) fn complaint(&self) -> Complaint {
        self.complaint.clone()
    }

    /// Ends it and its group, whose input has ended: it may go by itself, is asked to,
    /// and is made to. Its directory goes last.
    pub(crate) async fn end(mut self) {
        let went = tokio::time::timeout(GOES_WITHIN, self.child.wait()).await.is_ok();
        // Whoever it started is still there, whether or not it went.
        if !went || self.group_is_there() {
            self.signal(Signal::TERM);
            let _ = tokio::time::timeout(TERMINATES_WITHIN, self.gone()).await;
            self.signal(Signal::KILL);
            let _ = self.child.wait().await;
            let _ = tokio::time::timeout(TERMINATES_WITHIN, self.gone()).await;
        }
        if let Some(watch) = self.watch.take() {
            watch.dismiss().await;
        }
        let dir = self.dir;
        let removed = tokio::task::spawn_blocking(move || dir.close()).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, "the directory of an MCP server's process stays");
        }
    }

    async fn gone(&mut self) {
        let _ = self.child.wait().await;
        while self.group_is_there() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn group_is_there(&self) -> bool {
        test_kill_process_group(self.group).is_ok()
    }

    fn signal(&self, signal: Signal) {
        // A group without members is what is wanted.
        let _ = kill_process_group(self.group, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_repeats_no_secret_and_stays_short() {
        let env = BTreeMap::from([("TOKEN".to_owned(), "hush-hush".to_owned())]);
        let complaint = Complaint::hiding(&env);
        assert_eq!(complaint.last_line(), None);
        complaint.add(b"first\ncannot log in with hush-hush\n\n");
        assert_eq!(complaint.last_line().unwrap(), "cannot log in with [hidden]");
        complaint.add(&vec![b'x'; 10 * COMPLAINT_BYTES_MAX]);
        assert_eq!(complaint.bytes.lock().len(), COMPLAINT_BYTES_MAX);
        assert_eq!(complaint.last_line().unwrap().len(), 300);
    }
}
