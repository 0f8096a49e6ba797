//! What this process takes of its machine, as metrics: processor, memory,
//! descriptors and threads. Read from procfs when asked; where there is none,
//! nothing is shown.

use std::fmt;
use std::fs;

use agentry_gateway::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// What the kernel counts processor time in, on every Linux: its USER_HZ.
const TICKS_PER_SECOND: f64 = 100.0;
/// Fields of /proc/self/stat behind the name, which is in parentheses: user time
/// and system time, counted from the state (proc_pid_stat(5): 14, 15).
const STAT_TIMES: [usize; 2] = [11, 12];

#[derive(Debug)]
struct ProcessCollector;

struct Process {
    cpu_seconds: f64,
    resident_bytes: i64,
    threads: i64,
    descriptors: i64,
    descriptors_max: i64,
}

impl Process {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let number = |name: &str| -> Option<i64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let limits = fs::read_to_string("/proc/self/limits").ok()?;
        let open_files = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        Some(Self {
            cpu_seconds: (ticks(STAT_TIMES[0])? + ticks(STAT_TIMES[1])?) / TICKS_PER_SECOND,
            resident_bytes: number("VmRSS:")? * 1_024,
            threads: number("Threads:")?,
            descriptors: i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()?,
            // Without a limit the word is none.
            descriptors_max: open_files.split_whitespace().next()?.parse().unwrap_or(i64::MAX),
        })
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(process) = Process::read() else { return Ok(()) };
        let seconds = ConstCounter::new(process.cpu_seconds);
        seconds.encode(encoder.encode_descriptor(
            "process_cpu_seconds",
            "Processor time, of user and system",
            None,
            seconds.metric_type(),
        )?)?;
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        for (name, help, value) in [
            (
                "process_cpus",
                "Processors that this process may use",
                i64::try_from(cpus).unwrap_or(1),
            ),
            ("process_resident_memory_bytes", "Memory that is resident", process.resident_bytes),
            ("process_threads", "Threads", process.threads),
            ("process_open_fds", "Open descriptors", process.descriptors),
            ("process_max_fds", "Descriptors that may be open", process.descriptors_max),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

/// Adds what the process takes to the metrics.
pub(crate) fn register(metrics: &Metrics) {
    metrics.register(|registry| registry.register_collector(Box::new(ProcessCollector)));
}
