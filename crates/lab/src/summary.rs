//! A run summed up: histograms merged, percentiles taken from what was merged,
//! and a verdict. The same code sums up a run that is under way and one that is
//! read from its file.

use std::collections::BTreeMap;

use crate::run_file::{
    Acknowledged, End, EndpointInterval, Header, Interval, Metrics, Run, Sample, SocketInterval,
    TargetUse,
};
use crate::sketch::Sketch;

/// A run, summed up as far as it went.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) header: Header,
    pub(crate) endpoints: Vec<EndpointSummary>,
    pub(crate) all: EndpointSummary,
    /// By endpoint and class.
    pub(crate) errors: BTreeMap<(usize, String), u64>,
    pub(crate) timeline: Vec<Point>,
    pub(crate) generator: GeneratorSummary,
    pub(crate) samples: Vec<Sample>,
    /// What the target said of itself: for each series the moments at which it
    /// changed, in seconds since the start, and its value from then on.
    pub(crate) series: BTreeMap<String, Vec<(f64, f64)>>,
    /// Why it could not be read, the last time that it could not.
    pub(crate) series_fault: Option<String>,
    pub(crate) end: Option<End>,
    pub(crate) torn: bool,
    /// Requests that ended in the seconds that were planned.
    in_time: u64,
    last_second: f64,
    /// Response times of the newest point.
    last_response: Sketch,
    /// What came over sockets in it.
    last_socket: SocketInterval,
}

#[derive(Debug, Default)]
pub(crate) struct EndpointSummary {
    pub(crate) name: String,
    pub(crate) ok: EndpointInterval,
    pub(crate) failed: EndpointInterval,
}

impl EndpointSummary {
    pub(crate) fn count(&self) -> u64 {
        self.ok.count + self.failed.count
    }

    /// From 0 to 1.
    pub(crate) fn error_share(&self) -> f64 {
        share(self.failed.count, self.count())
    }
}

pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[derive(Debug, Default)]
pub(crate) struct GeneratorSummary {
    pub(crate) dispatch_lag: Sketch,
    pub(crate) offered: u64,
    pub(crate) shed: u64,
    pub(crate) queue_max: u64,
    pub(crate) connects: u64,
    pub(crate) cpu_seconds: f64,
    busiest: f64,
    delay: f64,
    seconds: f64,
}

impl GeneratorSummary {
    /// How busy the busiest thread was on average, from 0 to 1.
    pub(crate) fn busiest_thread(&self) -> f64 {
        if self.seconds == 0.0 { 0.0 } else { self.busiest / self.seconds }
    }

    /// The share of the time that a thread was ready and did not run.
    pub(crate) fn scheduler_delay(&self) -> f64 {
        if self.seconds == 0.0 { 0.0 } else { self.delay / self.seconds }
    }
}

/// One second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Point {
    pub(crate) second: u64,
    pub(crate) seconds: f64,
    pub(crate) warmup: bool,
    pub(crate) offered: u64,
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    /// Of response times of what succeeded, in seconds.
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) users: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) target: Option<TargetUse>,
    pub(crate) socket: Option<SocketPoint>,
}

/// What came over WebSockets in one second.
#[derive(Clone, Debug, Default)]
pub(crate) struct SocketPoint {
    pub(crate) frames: u64,
    /// 50th and 99th percentile, where frames carried a moment.
    pub(crate) lag: Option<(f64, f64)>,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) reordered: u64,
    pub(crate) closed: u64,
}

impl SocketPoint {
    fn of(socket: &SocketInterval) -> Self {
        let lag = &socket.lag;
        Self {
            frames: socket.frames,
            lag: (!lag.is_empty()).then(|| (lag.quantile(0.5), lag.quantile(0.99))),
            lost: socket.lost,
            doubled: socket.doubled,
            reordered: socket.reordered,
            closed: socket.closed,
        }
    }
}

impl Summary {
    pub(crate) fn new(header: Header) -> Self {
        let endpoint = |name: &String| EndpointSummary { name: name.clone(), ..Default::default() };
        Self {
            endpoints: header.endpoints.iter().map(endpoint).collect(),
            all: EndpointSummary { name: "all".to_owned(), ..Default::default() },
            header,
            errors: BTreeMap::new(),
            timeline: Vec::new(),
            generator: GeneratorSummary::default(),
            samples: Vec::new(),
            series: BTreeMap::new(),
            series_fault: None,
            end: None,
            torn: false,
            in_time: 0,
            last_second: 0.0,
            last_response: Sketch::default(),
            last_socket: SocketInterval::default(),
        }
    }

    pub(crate) fn of(run: Run) -> Self {
        let mut summary = Self::new(run.header);
        run.intervals.iter().for_each(|interval| summary.add(interval));
        summary.samples = run.samples;
        run.metrics.iter().for_each(|metrics| summary.add_metrics(metrics));
        summary.end = run.end;
        summary.torn = run.torn;
        summary
    }

    pub(crate) fn add(&mut self, interval: &Interval) {
        let mut response = Sketch::default();
        let mut socket: Option<SocketInterval> = None;
        let (mut ok, mut failed) = (0, 0);
        for part in &interval.endpoints {
            if part.ok {
                response.merge(&part.response);
                if let Some(part) = &part.socket {
                    socket.get_or_insert_default().merge(part);
                }
                ok += part.count;
            } else {
                failed += part.count;
            }
            if interval.warmup {
                continue;
            }
            let sides = [self.endpoints.get_mut(part.endpoint), Some(&mut self.all)];
            for summary in sides.into_iter().flatten() {
                let side = if part.ok { &mut summary.ok } else { &mut summary.failed };
                side.merge(part);
            }
        }
        let mut classes: BTreeMap<String, u64> = BTreeMap::new();
        for error in &interval.errors {
            *classes.entry(error.class.clone()).or_default() += error.count;
            if !interval.warmup {
                let key = (error.endpoint, error.class.clone());
                *self.errors.entry(key).or_default() += error.count;
            }
        }
        let generator = &interval.generator;
        self.generator.connects += generator.connects;
        if !interval.warmup {
            let ours = &mut self.generator;
            ours.dispatch_lag.merge(&generator.dispatch_lag);
            ours.offered += generator.offered;
            ours.shed += generator.shed;
            ours.queue_max = ours.queue_max.max(generator.queue_max);
            ours.cpu_seconds += generator.cpu_seconds;
            // What follows the planned end is the tail of slow requests; it
            // would hide how busy the threads were while they were loaded.
            if self.header.load.seconds.is_none_or(|planned| (interval.second as f64) < planned) {
                ours.busiest += generator.busiest_thread * interval.seconds;
                ours.delay += generator.scheduler_delay * interval.seconds;
                ours.seconds += interval.seconds;
                self.in_time += ok + failed;
            }
        }
        self.last_second = self.last_second.max(interval.second as f64 + interval.seconds);
        self.point(interval, (ok, failed), (response, socket), classes);
    }

    pub(crate) fn add_metrics(&mut self, metrics: &Metrics) {
        for (name, value) in &metrics.series {
            if let Some(points) = self.series.get_mut(name) {
                points.push((metrics.at, *value));
            } else {
                self.series.insert(name.clone(), vec![(metrics.at, *value)]);
            }
        }
        if metrics.fault.is_some() {
            self.series_fault.clone_from(&metrics.fault);
        }
    }

    /// A second in which the warm-up ended has two intervals and one point.
    fn point(
        &mut self,
        interval: &Interval,
        (ok, failed): (u64, u64),
        (response, socket): (Sketch, Option<SocketInterval>),
        errors: BTreeMap<String, u64>,
    ) {
        if let Some(last) = self.timeline.last_mut()
            && last.second == interval.second
        {
            last.offered += interval.generator.offered;
            last.ok += ok;
            last.failed += failed;
            for (class, count) in errors {
                *last.errors.entry(class).or_default() += count;
            }
            last.warmup &= interval.warmup;
            last.target = last.target.or(interval.target);
            last.users = last.users.max(interval.generator.users);
            self.last_response.merge(&response);
            [last.p50, last.p95, last.p99] =
                [0.5, 0.95, 0.99].map(|q| self.last_response.quantile(q));
            if let Some(socket) = socket {
                self.last_socket.merge(&socket);
                last.socket = Some(SocketPoint::of(&self.last_socket));
            }
            return;
        }
        self.timeline.push(Point {
            second: interval.second,
            seconds: interval.seconds,
            warmup: interval.warmup,
            offered: interval.generator.offered,
            ok,
            failed,
            p50: response.quantile(0.5),
            p95: response.quantile(0.95),
            p99: response.quantile(0.99),
            users: interval.generator.users,
            errors,
            target: interval.target,
            socket: socket.as_ref().map(SocketPoint::of),
        });
        self.last_socket = socket.unwrap_or_default();
        self.last_response = response;
    }

    /// When the last second ended, in seconds since the start.
    pub(crate) fn ran(&self) -> f64 {
        self.last_second
    }

    /// Whether somebody ended it before its time.
    pub(crate) fn was_ended(&self) -> bool {
        self.end.as_ref().is_some_and(|end| !end.complete)
    }

    /// How long was measured, in seconds: the plan's time without the warm-up,
    /// or what of it there was.
    pub(crate) fn seconds(&self) -> f64 {
        let ran = self.end.as_ref().map_or(self.last_second, |end| end.seconds);
        let planned = self.header.load.seconds.unwrap_or(f64::INFINITY);
        (ran.min(planned) - self.header.warmup_seconds).max(0.0)
    }

    /// Requests per second that ended in that time, failed ones included.
    pub(crate) fn rate(&self) -> f64 {
        let seconds = self.seconds();
        if seconds == 0.0 { 0.0 } else { self.in_time as f64 / seconds }
    }

    /// The part of [`Self::rate`] that succeeded.
    pub(crate) fn goodput(&self) -> f64 {
        self.rate() * share(self.all.ok.count, self.all.count())
    }

    /// Of one endpoint, by its part of all requests.
    pub(crate) fn rate_of(&self, endpoint: &EndpointSummary) -> f64 {
        self.rate() * share(endpoint.count(), self.all.count())
    }

    /// Iterations that were to begin, per second.
    pub(crate) fn offered_rate(&self) -> f64 {
        let seconds = self.seconds();
        if seconds == 0.0 { 0.0 } else { self.generator.offered as f64 / seconds }
    }

    /// Failed requests and iterations that were never made, over all of both.
    pub(crate) fn error_share(&self) -> f64 {
        let shed = self.generator.shed;
        share(self.all.failed.count + shed, self.all.count() + shed)
    }

    pub(crate) fn acknowledged(&self) -> Option<&Acknowledged> {
        self.end.as_ref().and_then(|end| end.acknowledged.as_ref())
    }

    /// Mean CPUs that the target used, where it was watched.
    pub(crate) fn target_cpus(&self) -> Option<f64> {
        let watched: Vec<(f64, f64)> = self
            .timeline
            .iter()
            .filter(|point| !point.warmup)
            .filter_map(|point| Some((point.target?.cpu_seconds, point.seconds)))
            .collect();
        let seconds: f64 = watched.iter().map(|(_, seconds)| seconds).sum();
        (seconds > 0.0).then(|| watched.iter().map(|(cpu, _)| cpu).sum::<f64>() / seconds)
    }
}
