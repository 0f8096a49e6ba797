//! How much and how long: the profiles of a scenario, and what the command line
//! says instead.

use std::time::Duration;

use super::Overrides;
use super::pieces::Reader;
use crate::units;
use crate::yaml::{Node, Tree};

/// The profile that is taken when none is named and several are there.
const DEFAULT_PROFILE: &str = "normal";
/// Users of one run.
const USERS_MAX: u64 = 100_000;
/// Users that an open load may use at most, unless the profile says otherwise.
const OPEN_USERS: u32 = 1_000;

/// One way to run a scenario.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) load: Load,
    pub(crate) until: Until,
    /// What was intended before this is not in the results.
    pub(crate) warmup: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Load {
    /// Users who wait for an answer, think, and go on.
    Closed {
        users: u32,
        think: (Duration, Duration),
        /// Users that begin per second; all at once without it.
        ramp: Option<f64>,
    },
    /// Iterations begin when they are due, whatever the target does.
    Open {
        arrivals: Arrivals,
        stages: Vec<Stage>,
        /// How many may be under way at once; more wait, and their waiting
        /// counts.
        users: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrivals {
    Constant,
    Poisson,
}

/// A time in which the rate goes in a straight line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stage {
    /// Per second.
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) lasts: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    Elapsed(Duration),
    /// Iterations.
    Iterations(u64),
}

impl Profile {
    pub(crate) fn users(&self) -> u32 {
        match &self.load {
            Load::Closed { users, .. } | Load::Open { users, .. } => *users,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.load, Load::Open { .. })
    }

    pub(crate) fn closed(users: u32, until: Until) -> Self {
        let load = Load::Closed { users, think: (Duration::ZERO, Duration::ZERO), ramp: None };
        Self { name: "command line".to_owned(), load, until, warmup: Duration::ZERO }
    }

    pub(crate) fn open(rate: f64, arrivals: Arrivals, users: u32, lasts: Duration) -> Self {
        let stages = vec![Stage { from: rate, to: rate, lasts }];
        Self {
            name: "command line".to_owned(),
            load: Load::Open { arrivals, stages, users },
            until: Until::Elapsed(lasts),
            warmup: Duration::ZERO,
        }
    }
}

/// Reads all profiles, so that all faults are found, and picks the one to run.
pub(super) fn choose(
    reader: &mut Reader,
    profiles: Option<&Node>,
    overrides: &Overrides,
) -> Option<Profile> {
    let mut read = Vec::new();
    for (key, node) in profiles.map_or(&[][..], |node| reader.entries(node, "`profiles`")) {
        read.push((key.name.as_str(), read_profile(reader, &key.name, node)));
    }
    let wanted = overrides.profile.as_deref();
    let found = match wanted {
        Some(name) => {
            let found = read.iter().find(|(known, _)| *known == name);
            if found.is_none() {
                let known: Vec<&str> = read.iter().map(|(name, _)| *name).collect();
                let known = known.join(", ");
                reader.fault_of_overrides(format!("--profile {name}: there are {known}"));
                return None;
            }
            found
        }
        None => read.iter().find(|(name, _)| *name == DEFAULT_PROFILE).or_else(|| read.first()),
    };
    let profile = match found {
        Some((_, profile)) => profile.clone()?,
        None => Profile::closed(10, Until::Elapsed(Duration::from_secs(10))),
    };
    overridden(reader, profile, overrides)
}

fn overridden(reader: &mut Reader, mut profile: Profile, overrides: &Overrides) -> Option<Profile> {
    if let Some(concurrency) = overrides.concurrency {
        if concurrency == 0 || u64::from(concurrency) > USERS_MAX {
            reader.fault_of_overrides(format!("--concurrency is from 1 to {USERS_MAX}"));
            return None;
        }
        match &mut profile.load {
            Load::Closed { users, .. } => *users = concurrency,
            Load::Open { .. } => {
                let until = profile.until;
                let (name, warmup) = (profile.name, profile.warmup);
                profile = Profile { name, warmup, ..Profile::closed(concurrency, until) };
            }
        }
    }
    if let Some(requests) = overrides.requests {
        if profile.is_open() {
            reader.fault_of_overrides("--requests needs a closed load; add --concurrency");
        }
        profile.until = Until::Iterations(requests);
        profile.warmup = Duration::ZERO;
    }
    if let Some(duration) = overrides.duration {
        if overrides.requests.is_some() {
            reader.fault_of_overrides("--requests and --duration do not go together");
        }
        if let Load::Open { stages, .. } = &mut profile.load {
            if let [only] = stages.as_mut_slice() {
                only.lasts = duration;
            } else {
                reader.fault_of_overrides("--duration does not go with the profile's stages");
            }
        }
        profile.until = Until::Elapsed(duration);
        profile.warmup = profile.warmup.min(duration / 2);
    }
    Some(profile)
}

fn read_profile(reader: &mut Reader, name: &str, node: &Node) -> Option<Profile> {
    let fields = reader.fields(node, &["closed", "open", "for", "iterations", "warmup"])?;
    let lasts = fields.get("for").and_then(|node| reader.parsed(node, units::duration));
    let iterations = fields.get("iterations").and_then(|node| reader.whole(node));
    let warmup = fields.get("warmup").and_then(|node| reader.parsed(node, units::duration));
    let (load, until) = match (fields.get("closed"), fields.get("open")) {
        (Some(closed), None) => {
            let until = match (lasts, iterations) {
                (Some(lasts), None) => Some(Until::Elapsed(lasts)),
                (None, Some(iterations)) => Some(Until::Iterations(iterations)),
                _ => {
                    reader.fault(node, format!("`{name}` needs either `for` or `iterations`"));
                    None
                }
            };
            (read_closed(reader, closed), until)
        }
        (None, Some(open)) => {
            if let Some(node) = fields.get("iterations") {
                reader.fault(node, "an open load ends by time: `for`");
            }
            let (load, lasts) = read_open(reader, open, lasts)?;
            (Some(load), Some(Until::Elapsed(lasts)))
        }
        _ => {
            reader.fault(node, format!("`{name}` needs either `closed` or `open`"));
            (None, None)
        }
    };
    let until = until?;
    let warmup = warmup.unwrap_or_default();
    if let Until::Elapsed(lasts) = until
        && warmup >= lasts
    {
        reader.fault(node, format!("`{name}` ends before its warm-up does"));
    }
    if warmup > Duration::ZERO && matches!(until, Until::Iterations(_)) {
        reader.fault(node, "a warm-up goes with `for`, not with `iterations`");
    }
    Some(Profile { name: name.to_owned(), load: load?, until, warmup })
}

fn read_closed(reader: &mut Reader, node: &Node) -> Option<Load> {
    let fields = reader.fields(node, &["users", "think", "ramp"])?;
    let think = fields.get("think").and_then(|node| reader.parsed(node, units::duration_range));
    let ramp = fields.get("ramp").and_then(|node| reader.parsed(node, units::rate));
    let Some(users) = fields.get("users") else {
        reader.fault(node, "`users` is missing");
        return None;
    };
    Some(Load::Closed { users: read_users(reader, users)?, think: think.unwrap_or_default(), ramp })
}

fn read_users(reader: &mut Reader, node: &Node) -> Option<u32> {
    let users = reader.whole(node)?;
    if users == 0 || users > USERS_MAX {
        reader.fault(node, format!("`users` is from 1 to {USERS_MAX}"));
        return None;
    }
    u32::try_from(users).ok()
}

fn read_open(
    reader: &mut Reader,
    node: &Node,
    lasts: Option<Duration>,
) -> Option<(Load, Duration)> {
    let fields = reader.fields(node, &["rate", "stages", "arrivals", "users"])?;
    let arrivals = fields.get("arrivals").and_then(|node| {
        reader.parsed(node, |text| match text {
            "constant" => Ok(Arrivals::Constant),
            "poisson" => Ok(Arrivals::Poisson),
            _ => Err(format!("`arrivals` is constant or poisson, not `{text}`")),
        })
    });
    let users = fields.get("users").and_then(|node| read_users(reader, node));
    let rate = fields.get("rate").and_then(|node| reader.parsed(node, units::rate));
    let stages = match (rate, fields.get("stages"), lasts) {
        (Some(rate), None, Some(lasts)) => vec![Stage { from: rate, to: rate, lasts }],
        (None, Some(node), None) => read_stages(reader, node),
        // That it is wrong has been said.
        (None, None, Some(_)) if fields.get("rate").is_some() => return None,
        _ => {
            reader.fault(node, "an open load has `rate` and `for`, or `stages` with a `for` each");
            return None;
        }
    };
    let lasts = stages.iter().map(|stage| stage.lasts).sum();
    let arrivals = arrivals.unwrap_or(Arrivals::Constant);
    Some((Load::Open { arrivals, stages, users: users.unwrap_or(OPEN_USERS) }, lasts))
}

/// `rate` jumps there and stays; `to` goes there in a straight line from where
/// the stage before ended, the first from 0.
fn read_stages(reader: &mut Reader, node: &Node) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    for item in reader.list(node, "`stages`") {
        let Some(fields) = reader.fields(item, &["rate", "to", "for"]) else { continue };
        let lasts = fields.get("for").and_then(|node| reader.parsed(node, units::duration));
        let rate = fields.get("rate").and_then(|node| reader.parsed(node, units::rate));
        let to = fields.get("to").and_then(|node| match &node.tree {
            Tree::Int(0) => Some(0.0),
            _ => reader.parsed(node, units::rate),
        });
        let before = stages.last().map_or(0.0, |stage| stage.to);
        let (from, to) = match (rate, to) {
            (Some(rate), None) => (rate, rate),
            (None, Some(to)) => (before, to),
            _ => {
                reader.fault(item, "a stage has either `rate` or `to`, such as 500/s");
                continue;
            }
        };
        match lasts {
            Some(lasts) if lasts > Duration::ZERO => stages.push(Stage { from, to, lasts }),
            _ => reader.fault(item, "a stage needs a `for` above 0"),
        }
    }
    if stages.is_empty() {
        reader.fault(node, "`stages` has none");
    }
    stages
}
