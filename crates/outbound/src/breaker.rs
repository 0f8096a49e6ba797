//! Leaving a failing upstream alone. Closed, calls go out and their outcomes are
//! counted; when too many of the last ones failed it opens, and calls are refused
//! without being sent. After a while one call at a time goes out as a probe; when
//! enough probes succeeded the share of calls that go out rises in steps, so that
//! what has just come back is not met by everything that waited for it.
//!
//! Pure: time comes in, nothing waits.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Shares of the calls that go out on the way back, in percent, one step each.
const RAMP_PERCENT: [u32; 3] = [25, 50, 75];
/// How much longer than the first time it stays open at most, after probes that
/// failed.
const OPEN_FACTOR_MAX: u32 = 16;

/// When it opens and how it closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerRules {
    /// Outcomes that are looked at, the newest.
    pub window_calls: usize,
    /// Failures among them that open it, if they are also half of them.
    pub failures_min: usize,
    /// How long it stays open the first time; doubled by each probe that fails.
    pub open: Duration,
    /// Probes that have to succeed, one after the other.
    pub probes: u32,
    /// Successes in each step of the ramp.
    pub ramp_calls: u32,
}

/// What a call's outcome says about its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answers.
    Success,
    /// It does not, or not as it should.
    Failure,
    /// Nothing: the caller went away, or was at fault.
    Unknown,
}

/// How it stands, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls go out.
    Closed,
    /// Calls are refused.
    Open,
    /// Probes go out.
    HalfOpen,
    /// A share of the calls goes out.
    Ramp,
}

impl BreakerState {
    /// How far it is from closed, as a number: 0 closed, 1 ramp, 2 half open, 3 open.
    pub fn severity(self) -> i64 {
        match self {
            Self::Closed => 0,
            Self::Ramp => 1,
            Self::HalfOpen => 2,
            Self::Open => 3,
        }
    }
}

#[derive(Debug)]
enum Phase {
    Closed { recent: VecDeque<bool> },
    Open { until: Instant },
    HalfOpen { under_way: bool, succeeded: u32 },
    Ramp { step: usize, asked: u32, succeeded: u32 },
}

/// The breaker of one upstream.
#[derive(Debug)]
pub struct Breaker {
    rules: BreakerRules,
    phase: Phase,
    // Outcomes of calls that went out before it opened say nothing of later.
    generation: u64,
    open_factor: u32,
    opened: u64,
}

/// That a call may go out; its outcome is told with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    generation: u64,
}

impl Breaker {
    /// Closed.
    pub fn new(rules: BreakerRules) -> Self {
        let phase = Phase::Closed { recent: VecDeque::with_capacity(rules.window_calls) };
        Self { rules, phase, generation: 0, open_factor: 1, opened: 0 }
    }

    /// Lets a call out, or says how long it should wait.
    pub fn admit(&mut self, now: Instant) -> Result<Admission, Duration> {
        if let Phase::Open { until } = self.phase {
            if now < until {
                return Err(until - now);
            }
            self.turn(Phase::HalfOpen { under_way: false, succeeded: 0 });
        }
        let wait = self.rules.open.min(Duration::from_secs(1));
        match &mut self.phase {
            Phase::Closed { .. } | Phase::Open { .. } => {}
            Phase::HalfOpen { under_way: true, .. } => return Err(wait),
            Phase::HalfOpen { under_way, .. } => *under_way = true,
            Phase::Ramp { step, asked, .. } => {
                // Of a hundred calls in a row this lets so many out, evenly.
                let percent = RAMP_PERCENT[*step];
                let before = *asked * percent / 100;
                *asked += 1;
                if *asked * percent / 100 == before && *asked > 1 {
                    return Err(wait);
                }
            }
        }
        Ok(Admission { generation: self.generation })
    }

    /// Tells what became of a call.
    pub fn tell(&mut self, admission: Admission, outcome: Outcome, now: Instant) {
        if admission.generation != self.generation {
            return;
        }
        match (&mut self.phase, outcome) {
            (Phase::Closed { .. }, Outcome::Unknown)
            | (Phase::Ramp { .. }, Outcome::Unknown)
            | (Phase::Open { .. }, _) => {}
            (Phase::Closed { recent }, outcome) => {
                if recent.len() == self.rules.window_calls {
                    recent.pop_front();
                }
                recent.push_back(outcome == Outcome::Failure);
                let failed = recent.iter().filter(|failed| **failed).count();
                if failed >= self.rules.failures_min && failed * 2 >= recent.len() {
                    self.open(now);
                }
            }
            (Phase::HalfOpen { under_way, .. }, Outcome::Unknown) => *under_way = false,
            (Phase::HalfOpen { .. } | Phase::Ramp { .. }, Outcome::Failure) => {
                self.open_factor = (self.open_factor * 2).min(OPEN_FACTOR_MAX);
                self.open(now);
            }
            (Phase::HalfOpen { under_way, succeeded }, Outcome::Success) => {
                *under_way = false;
                *succeeded += 1;
                if *succeeded >= self.rules.probes {
                    self.turn(Phase::Ramp { step: 0, asked: 0, succeeded: 0 });
                }
            }
            (Phase::Ramp { step, succeeded, .. }, Outcome::Success) => {
                *succeeded += 1;
                if *succeeded >= self.rules.ramp_calls {
                    let step = *step + 1;
                    if step < RAMP_PERCENT.len() {
                        self.turn(Phase::Ramp { step, asked: 0, succeeded: 0 });
                    } else {
                        self.open_factor = 1;
                        self.turn(Phase::Closed { recent: VecDeque::new() });
                    }
                }
            }
        }
    }

    /// How it stands.
    pub fn state(&self) -> BreakerState {
        match self.phase {
            Phase::Closed { .. } => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::HalfOpen { .. } => BreakerState::HalfOpen,
            Phase::Ramp { .. } => BreakerState::Ramp,
        }
    }

    /// How often it opened so far.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    fn open(&mut self, now: Instant) {
        self.opened += 1;
        self.turn(Phase::Open { until: now + self.rules.open * self.open_factor });
    }

    fn turn(&mut self, phase: Phase) {
        self.generation += 1;
        self.phase = phase;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Duration = Duration::from_secs(5);

    fn breaker() -> Breaker {
        Breaker::new(BreakerRules {
            window_calls: 10,
            failures_min: 4,
            open: OPEN,
            probes: 2,
            ramp_calls: 3,
        })
    }

    fn call(breaker: &mut Breaker, outcome: Outcome, now: Instant) -> bool {
        let admission = breaker.admit(now);
        if let Ok(admission) = admission {
            breaker.tell(admission, outcome, now);
        }
        admission.is_ok()
    }

    fn fail(breaker: &mut Breaker, times: usize, now: Instant) {
        for _ in 0..times {
            assert!(call(breaker, Outcome::Failure, now));
        }
    }

    #[test]
    fn it_opens_when_half_of_the_last_calls_failed() {
        let now = Instant::now();
        let mut rare = breaker();
        for _ in 0..20 {
            assert!(call(&mut rare, Outcome::Failure, now));
            assert!(call(&mut rare, Outcome::Success, now));
            assert!(call(&mut rare, Outcome::Success, now));
        }
        assert_eq!(rare.state(), BreakerState::Closed);
        let mut breaker = breaker();
        fail(&mut breaker, 3, now);
        assert!(call(&mut breaker, Outcome::Unknown, now));
        assert_eq!(breaker.state(), BreakerState::Closed);
        fail(&mut breaker, 1, now);
        assert_eq!((breaker.state(), breaker.opened()), (BreakerState::Open, 1));
        assert_eq!(breaker.admit(now + OPEN / 5), Err(OPEN - OPEN / 5));
    }

    #[test]
    fn it_comes_back_by_probes_and_a_ramp() {
        let mut now = Instant::now();
        let mut breaker = breaker();
        fail(&mut breaker, 4, now);
        now += OPEN;
        let probe = breaker.admit(now).unwrap();
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert!(breaker.admit(now).is_err(), "one probe at a time");
        breaker.tell(probe, Outcome::Unknown, now);
        assert!(call(&mut breaker, Outcome::Success, now), "a probe that says nothing is repeated");
        assert!(call(&mut breaker, Outcome::Success, now));
        assert_eq!(breaker.state(), BreakerState::Ramp);
        let mut shares = Vec::new();
        while breaker.state() == BreakerState::Ramp {
            let mut out = 0;
            let mut asked = 0;
            while out < 3 {
                asked += 1;
                out += u32::from(call(&mut breaker, Outcome::Success, now));
            }
            shares.push(asked);
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert!(shares[0] > shares[1] && shares[1] >= shares[2], "{shares:?}");
        assert_eq!(shares.len(), RAMP_PERCENT.len());
    }

    #[test]
    fn a_probe_that_fails_opens_it_for_longer() {
        let mut now = Instant::now();
        let mut breaker = breaker();
        fail(&mut breaker, 4, now);
        for factor in [2, 4, 8, 16, 16] {
            now += OPEN * OPEN_FACTOR_MAX;
            fail(&mut breaker, 1, now);
            assert_eq!(breaker.admit(now), Err(OPEN * factor));
        }
    }

    #[test]
    fn what_went_out_before_it_opened_says_nothing_later() {
        let mut now = Instant::now();
        let mut breaker = breaker();
        let early = breaker.admit(now).unwrap();
        fail(&mut breaker, 4, now);
        now += OPEN;
        let probe = breaker.admit(now).unwrap();
        breaker.tell(early, Outcome::Failure, now);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        breaker.tell(probe, Outcome::Success, now);
        assert_eq!(breaker.opened(), 1);
    }
}
