//! The shims do to a real program what they promise, and the replay of power
//! cuts tells a database that syncs from one that does not. The programs are
//! small Python scripts, because Python makes exactly the calls it is told to.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use xtask::powercut::{Ack, Journal, Operation, Replay, Unsynced};
use xtask::shims;
use xtask::workspace::output;

/// A shim from `make test`, or one built here when the test runs alone.
fn shim(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let dir = BUILT.get_or_init(|| match std::env::var_os("AGENTRY_TEST_SHIMS") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shims");
            shims::build(&dir).unwrap();
            dir
        }
    });
    shims::library(dir, name)
}

fn python() -> Command {
    let program = std::env::var_os("AGENTRY_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// A directory under the eyes of a shim, and a place beside it.
struct Watched {
    place: tempfile::TempDir,
    dir: PathBuf,
}

impl Watched {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("data");
        std::fs::create_dir(&dir).unwrap();
        Self { place, dir }
    }

    fn journal_of(&self, script: &str, args: &[&str]) -> Journal {
        let log = self.place.path().join("journal");
        let mut command = python();
        command.arg("-c").arg(script).args(args);
        command.env("LD_PRELOAD", shim("powercut"));
        command.env("POWERCUT_DIR", &self.dir).env("POWERCUT_LOG", &log);
        output(&mut command).unwrap();
        Journal::read(&log).unwrap()
    }
}

const WRITES: &str = r#"
import os, socket
d = os.environ['POWERCUT_DIR']
_, peer = socket.socketpair()
a = os.open(d + '/a', os.O_RDWR | os.O_CREAT)
os.pwrite(a, b'one', 0)
os.fdatasync(a)
peer.send(b'HTTP/1.1 201 Created\r\nX-Request-Id: first\r\ncontent-length: 0\r\n\r\n')
os.pwrite(a, b'two!', 0)
peer.send(b'HTTP/1.1 500 Error\r\nx-request-id: failed\r\n\r\n')
os.writev(peer.fileno(), [b'HTTP/1.1 200 OK\r\n', b'x-request-id: second\r\n\r\n{}'])
os.fsync(a)
os.ftruncate(a, 1)
os.mkdir(d + '/sub')
b = os.open(d + '/sub/b.tmp', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(b, b'x')
os.write(b, b'y')
os.fsync(b)
os.rename(d + '/sub/b.tmp', d + '/sub/b')
os.unlink(d + '/a')
sub = os.open(d + '/sub', os.O_RDONLY)
os.fsync(sub)
top = os.open(d, os.O_RDONLY)
os.fsync(top)
os.close(os.open(d + '/x-shm', os.O_RDWR | os.O_CREAT))
os.close(os.open(d + '/../outside', os.O_RDWR | os.O_CREAT))
"#;

/// Every file below a directory with its content, as one line.
fn contents(dir: &Path) -> String {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push(format!("{}={text}", path.strip_prefix(dir).unwrap().display()));
            }
        }
    }
    found.sort();
    found.join(" ")
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_nothing_else() {
    let watched = Watched::new();
    let journal = watched.journal_of(WRITES, &[]);
    let mut replay = Replay::new(&journal, None).unwrap();
    // What is on the disk, and how many answers have left, after each record
    // that changes either.
    let mut seen: Vec<(String, usize)> = Vec::new();
    for index in 0..=journal.records.len() {
        replay.advance_to(index).unwrap();
        let left = tempfile::tempdir().unwrap();
        replay.write_to(left.path(), Unsynced::Dropped).unwrap();
        let state = (contents(left.path()), replay.acknowledged().len());
        if seen.last() != Some(&state) {
            seen.push(state);
        }
    }
    let expected = [
        ("", 0),
        ("a=one", 0),
        ("a=one", 1),
        ("a=one", 2),
        ("a=two!", 2),
        // The sync of a new file brings its name and the directory's.
        ("a=two! sub/b.tmp=xy", 2),
        ("a=two! sub/b=xy", 2),
        ("sub/b=xy", 2),
    ];
    let expected: Vec<(String, usize)> =
        expected.into_iter().map(|(files, acks)| (files.to_owned(), acks)).collect();
    assert_eq!(seen, expected);
    let acks = [(201, "first"), (200, "second")];
    let acks = acks.map(|(status, id)| Ack { status, request_id: id.to_owned() });
    assert_eq!(replay.acknowledged(), acks);
    let strangers = |path: &str| path.ends_with("-shm") || path.contains("outside");
    assert!(!journal.records.iter().any(|record| strangers(&record.path)));
}

#[test]
fn by_chance_each_unsynced_write_is_kept_or_lost_in_sectors_when_torn() {
    let script = r#"
import os
d = os.environ['POWERCUT_DIR']
a = os.open(d + '/a', os.O_RDWR | os.O_CREAT)
os.pwrite(a, b'-' * 4096, 0)
os.fsync(a)
os.pwrite(a, b'+' * 3000, 700)
"#;
    let watched = Watched::new();
    let journal = watched.journal_of(script, &[]);
    let mut replay = Replay::new(&journal, None).unwrap();
    replay.advance_to(journal.records.len()).unwrap();
    let found = |seed, torn| {
        let left = tempfile::tempdir().unwrap();
        replay.write_to(left.path(), Unsynced::Subset { seed, torn }).unwrap();
        std::fs::read(left.path().join("a")).unwrap()
    };
    let whole: Vec<u8> =
        [vec![b'-'; 700], vec![b'+'; 3000], vec![b'-'; 396]].into_iter().flatten().collect();
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..32 {
        let all_or_nothing = found(seed, false);
        assert!(all_or_nothing == whole || all_or_nothing == vec![b'-'; 4096]);
        if all_or_nothing == whole {
            kept += 1;
        } else {
            lost += 1;
        }
        let sectors = found(seed, true);
        assert_eq!(sectors, found(seed, true), "the seed does not decide");
        for (sector, expected) in sectors.chunks(512).zip(whole.chunks(512)) {
            assert!(sector == expected || sector.iter().all(|byte| *byte == b'-'));
        }
        if sectors != whole && sectors.contains(&b'+') {
            torn += 1;
        }
    }
    assert!(kept > 0 && lost > 0 && torn > 0, "kept {kept}, lost {lost}, torn {torn}");
}

/// Commits a row, says so on a socket as a server would, sixty times.
const COMMITS: &str = r#"
import os, socket, sqlite3, sys
_, peer = socket.socketpair()
base = sqlite3.connect(os.environ['POWERCUT_DIR'] + '/base.db', isolation_level=None)
base.execute('PRAGMA journal_mode = WAL')
base.execute('PRAGMA synchronous = ' + sys.argv[1])
base.execute('PRAGMA wal_autocheckpoint = 20')
base.execute('CREATE TABLE said (id TEXT PRIMARY KEY, text TEXT)')
for n in range(60):
    base.execute('INSERT INTO said VALUES (?, ?)', (str(n), 'x' * 300))
    peer.send(b'HTTP/1.1 201 Created\r\nx-request-id: %d\r\n\r\n' % n)
"#;

/// Opens each directory of `sys.argv[1]` and looks for what its `acks` names.
const LOST: &str = r#"
import os, sqlite3, sys
lost = 0
for cut in os.listdir(sys.argv[1]):
    dir = os.path.join(sys.argv[1], cut)
    acks = open(dir + '/acks').read().split()
    base = sqlite3.connect(dir + '/base.db')
    assert base.execute('PRAGMA integrity_check').fetchone() == ('ok',), cut
    there = base.execute("SELECT name FROM sqlite_master WHERE name = 'said'").fetchone()
    rows = {id for (id,) in base.execute('SELECT id FROM said')} if there else set()
    lost += len(set(acks) - rows)
print(lost)
"#;

/// How many acknowledged rows are missing, over all cuts.
fn rows_lost(synchronous: &str, unsynced: Unsynced) -> u32 {
    let watched = Watched::new();
    let journal = watched.journal_of(COMMITS, &[synchronous]);
    let mut replay = Replay::new(&journal, None).unwrap();
    let cuts = tempfile::tempdir().unwrap();
    for index in journal.cuts_before_syncs() {
        replay.advance_to(index).unwrap();
        let dir = cuts.path().join(index.to_string());
        std::fs::create_dir(&dir).unwrap();
        replay.write_to(&dir, unsynced).unwrap();
        let acks = replay.acknowledged().iter().map(|ack| ack.request_id.clone());
        std::fs::write(dir.join("acks"), acks.collect::<Vec<_>>().join(" ")).unwrap();
    }
    assert_eq!(replay.acknowledged().len(), 60);
    output(python().arg("-c").arg(LOST).arg(cuts.path())).unwrap().trim().parse().unwrap()
}

#[test]
fn a_database_that_syncs_each_commit_loses_nothing() {
    assert_eq!(rows_lost("FULL", Unsynced::Dropped), 0);
    assert_eq!(rows_lost("FULL", Unsynced::Subset { seed: 7, torn: true }), 0);
}

#[test]
fn a_database_that_does_not_sync_each_commit_is_found_out() {
    assert!(rows_lost("NORMAL", Unsynced::Dropped) > 0);
}

#[test]
fn syncs_overlapping_writes_of_other_threads_cover_only_what_came_before() {
    let script = r#"
import os, threading
d = os.environ['POWERCUT_DIR']
def work(n):
    fd = os.open(f'{d}/{n}', os.O_RDWR | os.O_CREAT)
    for i in range(50):
        os.pwrite(fd, b'%03d' % i, 0)
        os.fdatasync(fd)
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
"#;
    let watched = Watched::new();
    let journal = watched.journal_of(script, &[]);
    let count = |wanted: fn(&Operation) -> bool| {
        journal.records.iter().filter(|record| wanted(&record.operation)).count()
    };
    assert_eq!(count(|operation| matches!(operation, Operation::Write { .. })), 200);
    assert_eq!(count(|operation| matches!(operation, Operation::SyncEnd { .. })), 200);
    let mut replay = Replay::new(&journal, None).unwrap();
    replay.advance_to(journal.records.len()).unwrap();
    let left = tempfile::tempdir().unwrap();
    replay.write_to(left.path(), Unsynced::Dropped).unwrap();
    assert_eq!(contents(left.path()), "0=049 1=049 2=049 3=049");
}

#[test]
fn slowsync_delays_each_sync() {
    let script = r#"
import os, tempfile, time
with tempfile.TemporaryFile() as file:
    begun = time.monotonic()
    for _ in range(5):
        os.write(file.fileno(), b'x')
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    print(time.monotonic() - begun)
"#;
    let mut slow = python();
    slow.arg("-c").arg(script).env("LD_PRELOAD", shim("slowsync")).env("SLOWSYNC_MS", "20");
    let seconds: f64 = output(&mut slow).unwrap().trim().parse().unwrap();
    assert!(seconds >= 0.2, "ten syncs took {seconds} s");
}

#[test]
fn failsync_breaks_the_disk_and_heals_it() {
    let script = r#"
import errno, os
d, control = os.environ['FAILSYNC_DIR'], os.environ['FAILSYNC_CONTROL']
def say(text):
    with open(control + '.new', 'w') as file:
        file.write(text)
    os.rename(control + '.new', control)
def tried(call, *args):
    try:
        call(*args)
        return 'ok'
    except OSError as error:
        return errno.errorcode[error.errno]
inside = os.open(d + '/a', os.O_RDWR | os.O_CREAT)
outside = os.open(d + '/../b', os.O_RDWR | os.O_CREAT)
def all(fd):
    return [tried(os.pwrite, fd, b'x', 0), tried(os.ftruncate, fd, 9), tried(os.posix_fallocate, fd, 0, 99),
            tried(os.fsync, fd), tried(os.fdatasync, fd)]
for text in ['', 'fsync EIO\n', 'write ENOSPC\n', 'fsync ENOSPC\nwrite EIO\n', '']:
    say(text)
    os.ftruncate(inside, 0)
    print(*all(inside), *set(all(outside)))
os.remove(control)
print(*all(inside), *set(all(outside)))
"#;
    let watched = Watched::new();
    let mut command = python();
    command.arg("-c").arg(script).env("LD_PRELOAD", shim("failsync"));
    command.env("FAILSYNC_DIR", &watched.dir);
    command.env("FAILSYNC_CONTROL", watched.place.path().join("control"));
    let said = output(&mut command).unwrap();
    let expected = "\
ok ok ok ok ok ok
ok ok ok EIO EIO ok
ENOSPC ENOSPC ENOSPC ok ok ok
EIO EIO EIO ENOSPC ENOSPC ok
ok ok ok ok ok ok
ok ok ok ok ok ok
";
    assert_eq!(said, expected);
}
