//! The CPU time of a process and its descendants, from procfs.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::workspace::output;

/// Reads CPU times.
#[derive(Clone, Copy, Debug)]
pub struct CpuClock {
    tick: Duration,
}

impl CpuClock {
    /// Asks for the length of a clock tick.
    ///
    /// # Errors
    /// When `getconf` cannot say.
    pub fn new() -> Result<Self> {
        let per_second: u32 = output(Command::new("getconf").arg("CLK_TCK"))?.trim().parse()?;
        Ok(Self { tick: Duration::from_secs(1) / per_second })
    }

    /// User and system time that a process and all below it have used,
    /// children that have ended included.
    ///
    /// # Errors
    /// When procfs cannot be read or there is no such process.
    pub fn used_by(self, pid: u32) -> Result<Duration> {
        let mut used = HashMap::new();
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process may end between being listed and being read.
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            let (parent, ticks) = parse(&stat).with_context(|| format!("unreadable: {stat}"))?;
            used.insert(pid, ticks);
            children.entry(parent).or_default().push(pid);
        }
        used.get(&pid).with_context(|| format!("process {pid} has ended"))?;
        let mut ticks = 0;
        let mut left = vec![pid];
        while let Some(pid) = left.pop() {
            ticks += used.get(&pid).copied().unwrap_or_default();
            left.extend(children.remove(&pid).unwrap_or_default());
        }
        Ok(self.tick * ticks)
    }
}

/// User and system time of children that have ended and were waited for.
///
/// # Errors
/// When procfs cannot be read.
pub fn used_by_ended_children(clock: CpuClock) -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, after_name) = stat.rsplit_once(") ").context("unreadable")?;
    let fields: Vec<&str> = after_name.split(' ').collect();
    let ticks = fields.get(13..15).context("unreadable")?;
    let ticks = ticks.iter().map(|field| field.parse::<u32>()).sum::<Result<u32, _>>()?;
    Ok(clock.tick * ticks)
}

/// The bytes that a process has had written to its disk.
///
/// # Errors
/// When there is no such process, or it is somebody else's.
pub fn written_bytes(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes:"));
    Ok(line.context("no write_bytes")?.trim().parse()?)
}

/// The resident memory of a process, in bytes.
///
/// # Errors
/// When there is no such process.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS")?;
    Ok(kilobytes.parse::<u64>()? * 1024)
}

/// The parent, and the sum of utime, stime, cutime and cstime (proc(5)).
fn parse(stat: &str) -> Option<(u32, u32)> {
    // The name, in parentheses, may hold anything.
    let (_, after_name) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = after_name.split(' ').collect();
    let parent = fields.get(1)?.parse().ok()?;
    let times = fields.get(11..15)?;
    let ticks = times.iter().map(|field| field.parse::<u32>().ok()).sum::<Option<u32>>()?;
    Some((parent, ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_and_times_are_read_whatever_the_name() {
        let stat = "7 (a) b) S 3 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 5 6 7";
        assert_eq!(parse(stat), Some((3, 100)));
    }

    #[test]
    fn ones_own_time_grows() {
        let clock = CpuClock::new().unwrap();
        let before = clock.used_by(std::process::id()).unwrap();
        while clock.used_by(std::process::id()).unwrap() == before {}
    }
}
