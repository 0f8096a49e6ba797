//! `lab hit URL`: one request, over and over.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;

use crate::command::{HitArgs, run_name};
use crate::drive;
use crate::scenario::{Arrivals, Plan, Profile, Until};
use crate::target::Target;

/// # Errors
/// A sentence about the argument that is wrong.
pub(crate) fn plan(args: &HitArgs) -> Result<(Plan, drive::Options), String> {
    let (target, request) = request(&args.url, &args.method, &args.headers, args.body.as_deref())?;
    let mut profile = match (args.rate, args.requests) {
        (Some(rate), _) => {
            let arrivals = if args.poisson { Arrivals::Poisson } else { Arrivals::Constant };
            Profile::open(rate, arrivals, args.users, args.duration)
        }
        (None, Some(requests)) => Profile::closed(args.concurrency, Until::Iterations(requests)),
        (None, None) => Profile::closed(args.concurrency, Until::Elapsed(args.duration)),
    };
    if args.warmup > Duration::ZERO {
        if args.requests.is_some() || args.warmup >= args.duration {
            return Err("--warmup needs a --duration that is longer".to_owned());
        }
        profile.warmup = args.warmup;
    }
    let head = args.method == "HEAD";
    let mut plan = Plan::single(target, request, head, profile);
    plan.timeout = args.timeout;
    plan.transport = args.transport.transport();
    let options = drive::Options {
        scenario: format!("{} {}", args.method, args.url),
        scenario_text: String::new(),
        run: run_name(),
        command: command(args),
        threads: args.threads,
        out: args.out.clone(),
    };
    Ok((plan, options))
}

/// The bytes of one request, and where they go.
///
/// # Errors
/// A sentence about the part that is wrong.
pub(crate) fn request(
    url: &str,
    method: &str,
    headers: &[String],
    body: Option<&str>,
) -> Result<(Target, Bytes), String> {
    let (target, path) = Target::with_path(url)?;
    if http::Method::from_bytes(method.as_bytes()).is_err() {
        return Err(format!("`{method}` is no method"));
    }
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", target.authority());
    let mut typed = false;
    for header in headers {
        let (name, value) =
            header.split_once(':').ok_or_else(|| format!("`{header}` is not NAME: VALUE"))?;
        let (name, value) = (name.trim(), value.trim());
        let name = http::HeaderName::try_from(name).map_err(|error| format!("{name}: {error}"))?;
        let value = http::HeaderValue::try_from(value)
            .map_err(|error| format!("the value of {name}: {error}"))?;
        let value = value.to_str().map_err(|error| format!("the value of {name}: {error}"))?;
        typed |= name == http::header::CONTENT_TYPE;
        // Writing to a String cannot fail.
        let _ = write!(request, "{name}: {value}\r\n");
    }
    if let Some(body) = body {
        if !typed {
            request.push_str("content-type: application/json\r\n");
        }
        let _ = write!(request, "content-length: {}\r\n\r\n{body}", body.len());
    } else if ["POST", "PUT", "PATCH"].contains(&method) {
        request.push_str("content-length: 0\r\n\r\n");
    } else {
        request.push_str("\r\n");
    }
    Ok((target, request.into()))
}

/// Without headers and body, which may hold secrets.
fn command(args: &HitArgs) -> String {
    let mut words = format!("agentry lab hit {} --method {}", args.url, args.method);
    let _ = match (args.rate, args.requests) {
        (Some(rate), _) => write!(
            words,
            " --rate {rate}/s{} --users {} --duration {:?}",
            if args.poisson { " --poisson" } else { "" },
            args.users,
            args.duration
        ),
        (None, Some(n)) => write!(words, " --concurrency {} --requests {n}", args.concurrency),
        (None, None) => {
            write!(words, " --concurrency {} --duration {:?}", args.concurrency, args.duration)
        }
    };
    if args.warmup > Duration::ZERO {
        let _ = write!(words, " --warmup {:?}", args.warmup);
    }
    let _ = write!(words, " --timeout {:?} --threads {}", args.timeout, args.threads);
    words.push_str(&args.transport.words());
    words
}
