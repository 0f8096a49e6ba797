//! Figures of the metrics that are read when somebody asks: whoever keeps the counts is
//! asked, and nothing is kept here.

use std::fmt;
use std::time::Duration;

use agentry_gateway::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Where figures are written.
pub(crate) struct Figures<'a>(DescriptorEncoder<'a>);

impl Figures<'_> {
    /// What only grows.
    pub(crate) fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        counter.encode(self.0.encode_descriptor(name, help, None, counter.metric_type())?)
    }

    /// What goes up and down.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        gauge.encode(self.0.encode_descriptor(name, help, None, gauge.metric_type())?)
    }

    /// A time that goes up and down, in seconds and parts of them.
    pub(crate) fn seconds(&mut self, name: &str, help: &str, value: Duration) -> fmt::Result {
        let gauge = ConstGauge::new(value.as_secs_f64());
        gauge.encode(self.0.encode_descriptor(name, help, None, gauge.metric_type())?)
    }
}

/// A label, and what there is for each of its values.
pub(crate) type Labelled<'a, V> = (&'a str, &'a [(&'a str, V)]);

impl Figures<'_> {
    /// The same for each value of a label.
    pub(crate) fn gauges(
        &mut self,
        name: &str,
        help: &str,
        (label, values): Labelled<'_, u64>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (of, value) in values {
            let gauge = ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&[(label, *of)])?)?;
        }
        Ok(())
    }

    /// Whole numbers, or seconds and parts of them, that only grow.
    pub(crate) fn counters<V>(
        &mut self,
        name: &str,
        help: &str,
        (label, values): Labelled<'_, V>,
    ) -> fmt::Result
    where
        V: Copy,
        ConstCounter<V>: EncodeMetric,
    {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (of, value) in values {
            ConstCounter::new(*value).encode(family.encode_family(&[(label, *of)])?)?;
        }
        Ok(())
    }
}

struct Asked<F>(F);

impl<F> fmt::Debug for Asked<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asked")
    }
}

impl<F> Collector for Asked<F>
where
    F: Fn(&mut Figures<'_>) -> fmt::Result + Send + Sync + 'static,
{
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.0)(&mut Figures(encoder))
    }
}

/// Adds to the metrics what this writes whenever they are read.
pub(crate) fn register(
    metrics: &Metrics,
    write: impl Fn(&mut Figures<'_>) -> fmt::Result + Send + Sync + 'static,
) {
    metrics.register(|registry| registry.register_collector(Box::new(Asked(write))));
}
