//! The terminal while a live view has it: the alternate screen without a
//! cursor, and no echo of what is typed. Ctrl-C stays a signal, so that it ends
//! a run as it does without a view.
//!
//! Whoever leaves, leaves everything as it was: at the end, on a panic of any
//! thread (before its message is printed), and before the process is ended by a
//! second Ctrl-C.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::sync::{Mutex, Once, PoisonError};

use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr,
};

/// One terminal can be had at a time.
static HELD: Mutex<Option<Held>> = Mutex::new(None);
static HOOK: Once = Once::new();

struct Held {
    terminal: File,
    before: Termios,
}

/// The terminal is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Screen(());

impl Screen {
    /// Takes a terminal.
    ///
    /// # Errors
    /// When it is none, or another program has it in the foreground.
    pub(crate) fn enter(terminal: File) -> io::Result<Self> {
        // A program in the background that changes the terminal is stopped.
        if tcgetpgrp(&terminal)? != rustix::process::getpgrp() {
            return Err(io::Error::other("in the background"));
        }
        Self::take(terminal)
    }

    fn take(mut terminal: File) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
        // Otherwise Ctrl-C throws away what was written and not yet shown, and
        // with it what gives the terminal back.
        quiet.local_modes.insert(LocalModes::NOFLSH);
        // Ctrl-Z would leave the shell on the alternate screen.
        quiet.special_codes[SpecialCodeIndex::VSUSP] = 0;
        HOOK.call_once(|| {
            let then = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                leave();
                then(panic);
            }));
        });
        tcsetattr(&terminal, OptionalActions::Now, &quiet)?;
        let entered = execute!(terminal, EnterAlternateScreen, Hide);
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some(Held { terminal, before });
        drop(held);
        let screen = Self(());
        entered.map(|()| screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Gives the terminal back, if it was taken. Whoever calls this while another
/// thread is at it waits until it is done, and may end the process then.
pub(crate) fn leave() {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(Held { mut terminal, before }) = held.take() {
        // A terminal that is gone needs nothing back.
        drop(execute!(terminal, LeaveAlternateScreen, Show));
        drop(terminal.flush());
        let _ = tcsetattr(&terminal, OptionalActions::Now, &before);
    }
}

/// Whether lines on stderr would be drawn over.
pub(crate) fn is_taken() -> bool {
    HELD.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// Another handle of stderr.
///
/// # Errors
/// When there is no stderr.
pub(crate) fn stderr() -> io::Result<File> {
    Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::io::Read as _;

    /// A terminal of our own and what shows it.
    fn pty() -> (File, File) {
        let shows = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&shows).unwrap();
        unlockpt(&shows).unwrap();
        let name = ptsname(&shows, Vec::new()).unwrap();
        let terminal = rustix::fs::open(
            name.as_c_str(),
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY,
            rustix::fs::Mode::empty(),
        );
        (File::from(shows), File::from(terminal.unwrap()))
    }

    #[test]
    fn a_panic_gives_the_terminal_back_before_it_says_anything() {
        let (mut shows, terminal) = pty();
        let modes = |terminal: &File| {
            let now = tcgetattr(terminal).unwrap();
            (now.local_modes, now.special_codes[SpecialCodeIndex::VSUSP])
        };
        let before = modes(&terminal);
        let other = terminal.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            let _screen = Screen::take(other.try_clone().unwrap()).unwrap();
            let taken = modes(&other);
            assert!(is_taken() && taken != before && !taken.0.contains(LocalModes::ECHO));
            panic!("as asked");
        });
        assert!(thread.join().is_err());
        assert!(!is_taken());
        assert_eq!(modes(&terminal), before);
        let mut seen = vec![0; 1024];
        let read = shows.read(&mut seen).unwrap();
        let seen = String::from_utf8_lossy(&seen[..read]).into_owned();
        assert_eq!(seen, "\u{1b}[?1049h\u{1b}[?25l\u{1b}[?1049l\u{1b}[?25h");
    }
}
