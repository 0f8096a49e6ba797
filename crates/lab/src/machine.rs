//! What procfs says: about this machine, the generator's own threads and the
//! target's process.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Instant;

use crate::run_file::{Machine, TargetUse};

/// Keeps the kernel from giving this process memory in pages of 2 MiB. What a
/// generator needs is many small pieces in many places: each of them would cost
/// a whole such page, and zeroing it costs more than a short run's requests.
pub(crate) fn use_small_pages() {
    // An old kernel does not know it, and the lab is then the larger.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// How a thread spent a lap.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ThreadUse {
    pub(crate) seconds: f64,
    pub(crate) running_seconds: f64,
    /// Ready, and not running.
    pub(crate) waiting_seconds: f64,
}

/// The calling thread's time, by `/proc/thread-self/schedstat`.
#[derive(Debug)]
pub(crate) struct ThreadClock {
    at: Instant,
    running_ns: u64,
    waiting_ns: u64,
}

impl ThreadClock {
    pub(crate) fn start() -> Self {
        let (running_ns, waiting_ns) = schedstat().unwrap_or_default();
        Self { at: Instant::now(), running_ns, waiting_ns }
    }

    /// Since the start or the last lap; zero where the kernel does not count.
    pub(crate) fn lap(&mut self) -> ThreadUse {
        let before = std::mem::replace(self, Self::start());
        let seconds = |now: u64, then: u64| now.saturating_sub(then) as f64 / 1e9;
        ThreadUse {
            seconds: self.at.duration_since(before.at).as_secs_f64(),
            running_seconds: seconds(self.running_ns, before.running_ns),
            waiting_seconds: seconds(self.waiting_ns, before.waiting_ns),
        }
    }
}

fn schedstat() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// This machine.
pub(crate) fn describe(target: IpAddr) -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned())).unwrap_or_default()
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let kilobytes: u64 =
        memory.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default();
    Machine {
        system: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
        // All of them: a process may be pinned to some, and its target to others.
        cpus: read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count(),
        cpu_model: field(&read("/proc/cpuinfo"), "model name"),
        memory_bytes: kilobytes * 1024,
        shared_with_target: target.is_loopback(),
    }
}

/// Watches the target's process.
#[derive(Debug)]
pub(crate) struct Watcher {
    pid: u32,
    cpu_seconds: f64,
}

impl Watcher {
    /// None when there is no such process, or it is not ours to read.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, cpu_seconds: cpu_seconds(pid)? })
    }

    /// The process that listens at this address of the loopback.
    pub(crate) fn of_listener(address: SocketAddr) -> Option<Self> {
        let mut tables = ["/proc/net/tcp", "/proc/net/tcp6"];
        if address.is_ipv6() {
            tables.reverse();
        }
        // A socket of the other family may serve both.
        let mut found = tables.iter().map(|path| listeners(path, address.port()));
        let inodes = found.find(|inodes| !inodes.is_empty())?;
        let pids = fs::read_dir("/proc").ok()?.flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mut pids: Vec<u32> = pids.collect();
        // What is loaded was mostly started a short while ago.
        pids.sort_unstable_by_key(|pid| std::cmp::Reverse(*pid));
        let mut holder = pids.into_iter().find(|pid| holds(*pid, &inodes))?;
        // A server of several processes is known by the one that started them.
        while let Some(parent) = parent(holder).filter(|parent| holds(*parent, &inodes)) {
            holder = parent;
        }
        Self::of(holder)
    }

    /// What it used since the last time; none when it has ended.
    pub(crate) fn lap(&mut self) -> Option<TargetUse> {
        let cpu = cpu_seconds(self.pid)?;
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let number = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.pid)).ok()?.count();
        let used = cpu - self.cpu_seconds;
        self.cpu_seconds = cpu;
        Some(TargetUse {
            cpu_seconds: used.max(0.0),
            resident_bytes: number("VmRSS:").unwrap_or_default() * 1024,
            descriptors: descriptors as u64,
            threads: number("Threads:").unwrap_or_default(),
        })
    }
}

/// The sockets of a table that listen on the port (proc(5), `/proc/net/tcp`).
/// Those that listen come first; the kernel looks for the others in a table of
/// a size that follows from the machine's memory, which takes it milliseconds,
/// so they are not asked for.
fn listeners(table: &str, port: u16) -> HashSet<String> {
    const LISTEN: &str = "0A";
    /// One row, so that the kernel prepares no more than is read.
    const ROW_BYTES: usize = 150;
    let mut inodes = HashSet::new();
    let Ok(file) = fs::File::open(table) else { return inodes };
    let rows = BufReader::with_capacity(ROW_BYTES, file).lines().map_while(Result::ok);
    for row in rows.skip(1) {
        let fields: Vec<&str> = row.split_whitespace().collect();
        let (Some(local), Some(state), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9))
        else {
            continue;
        };
        if *state != LISTEN {
            break;
        }
        let local_port = local.rsplit(':').next().and_then(|hex| u16::from_str_radix(hex, 16).ok());
        if local_port == Some(port) {
            inodes.insert(format!("socket:[{inode}]"));
        }
    }
    inodes
}

fn holds(pid: u32, sockets: &HashSet<String>) -> bool {
    let Ok(files) = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")) else {
        return false;
    };
    files.flatten().any(|file| {
        fs::read_link(file.path())
            .is_ok_and(|to| to.to_str().is_some_and(|to| sockets.contains(to)))
    })
}

/// What `/proc/PID/stat` says after the name, which, in parentheses, may hold
/// anything: state, parent and so on.
fn stat(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ").map(|(_, after_name)| after_name.to_owned())
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.split(' ').nth(1)?.parse().ok()
}

/// User and system time.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = stat(pid)?;
    let mut fields = stat.split(' ').skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut watcher = Watcher::of_listener(address).unwrap();
        assert_eq!(watcher.pid, std::process::id());
        let used = watcher.lap().unwrap();
        assert!(used.resident_bytes > 0 && used.descriptors > 3 && used.threads > 0);
        drop(listener);
        assert!(Watcher::of_listener(address).is_none());
    }

    #[test]
    fn a_busy_thread_has_run() {
        let mut clock = ThreadClock::start();
        let before = Instant::now();
        let mut used = 0.0;
        // The kernel books what runs at its next tick.
        while used < 0.015 {
            assert!(before.elapsed().as_secs() < 30, "only {used} s were booked");
            let lap = clock.lap();
            used += lap.running_seconds + lap.waiting_seconds;
        }
        assert!(used < before.elapsed().as_secs_f64() + 0.02, "{used}");
    }
}
