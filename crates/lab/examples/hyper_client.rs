//! What a request costs a generator that is made of hyper's client: users that
//! wait for each answer on a connection each, two times of each request taken
//! and kept in a histogram, and nothing else. `cargo xtask bench-lab` holds the
//! lab's own client against it.
//!
//! `hyper_client ADDRESS USERS SECONDS` prints one line of JSON.

use std::cell::RefCell;
use std::io::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, users, seconds] = arguments.as_slice() else {
        return Err("hyper_client ADDRESS USERS SECONDS".into());
    };
    let (users, seconds): (u32, u64) = (users.parse()?, seconds.parse()?);
    let times = Rc::new(RefCell::new(Histogram::<u64>::new(3)?));
    let begun = Instant::now();
    let until = begun + Duration::from_secs(seconds);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended: Result<(), Failure> = LocalSet::new().block_on(&runtime, async {
        let mut loops = JoinSet::new();
        for _ in 0..users {
            let (address, times) = (address.clone(), Rc::clone(&times));
            loops.spawn_local(async move {
                user(&address, until, &times).await.map_err(|error| error.to_string())
            });
        }
        while let Some(ended) = loops.join_next().await {
            ended??;
        }
        Ok(())
    });
    ended?;
    let (requests, seconds) = (times.borrow().len(), begun.elapsed().as_secs_f64());
    writeln!(std::io::stdout(), "{{\"requests\":{requests},\"seconds\":{seconds}}}")?;
    Ok(())
}

async fn user(
    address: &str,
    until: Instant,
    times: &RefCell<Histogram<u64>>,
) -> Result<(), Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let asks = async {
        loop {
            let sent = Instant::now();
            if sent >= until {
                return Ok::<(), Failure>(());
            }
            let request = Request::get("/").header("host", address).body(Empty::<Bytes>::new())?;
            sender.ready().await?;
            let mut answer = sender.send_request(request).await?;
            if !answer.status().is_success() {
                return Err(answer.status().to_string().into());
            }
            while let Some(frame) = answer.frame().await {
                frame?;
            }
            times.borrow_mut().record(u64::try_from(sent.elapsed().as_nanos())?)?;
        }
    };
    tokio::select! {
        ended = asks => ended,
        ended = connection => Err(format!("the connection ended: {ended:?}").into()),
    }
}
