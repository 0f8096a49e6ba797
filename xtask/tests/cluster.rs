//! The throw-away PostgreSQL: it answers, takes a preloaded library, and is
//! gone with its directory when it is dropped.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use xtask::guarded::Preload;
use xtask::postgres::{Cluster, binaries};
use xtask::shims;
use xtask::workspace::output;

const DELAY_MS: u32 = 20;

fn psql(url: &str, statements: &[&str]) -> String {
    // Each a transaction of its own.
    let mut psql = Command::new(binaries().unwrap().join("psql"));
    psql.arg(url).args(["--no-psqlrc", "--tuples-only", "--no-align", "--quiet"]);
    for statement in statements {
        psql.args(["--command", statement]);
    }
    output(&mut psql).unwrap().trim().to_owned()
}

#[test]
fn a_cluster_commits_through_the_preloaded_library_and_goes() {
    let needed = std::env::var_os("AGENTRY_TEST_SHIMS");
    let shims = PathBuf::from(needed.expect("run `make test`, which prepares PostgreSQL"));
    let place = tempfile::tempdir().unwrap();
    let preload = Preload {
        library: shims::library(&shims, "slowsync"),
        env: ("SLOWSYNC_MS", DELAY_MS.to_string()),
    };
    let cluster = Cluster::start(&place.path().join("log"), Some(&preload)).unwrap();
    let url = cluster.create_database("some").unwrap();
    let begun = Instant::now();
    let insert = "INSERT INTO a VALUES (1)";
    let rows = psql(&url, &["CREATE TABLE a (x int)", insert, insert, "SELECT count(*) FROM a"]);
    assert_eq!(rows, "2");
    let delays = Duration::from_millis(u64::from(3 * DELAY_MS));
    assert!(begun.elapsed() >= delays, "three commits took {:?}", begun.elapsed());

    let data = psql(&url, &["SHOW data_directory"]);
    let pid = cluster.pid();
    drop(cluster);
    assert!(!PathBuf::from(data).exists());
    assert!(!PathBuf::from(format!("/proc/{pid}")).exists());
}
