//! `agentry audit`: whether the log, its seals and their end agree with each other,
//! beside a server or without one.

use std::process::ExitCode;

use agentry_domain::audit::{ChainHead, HASH_BYTES, Hash};
use agentry_store::AuditVerdict;
use anyhow::Context as _;
use clap::Subcommand;

use crate::sealing;
use crate::settings::Settings;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Look at every seal, and at all entries that it covers: an entry that was
    /// changed, taken out or put in, and an end that was cut off, are told.
    Verify {
        /// An end of the chain that was printed earlier and kept elsewhere: it must
        /// still be there. Without it, a whole older state of the data that was put
        /// back is not noticed.
        #[arg(long, value_name = "SEALS:ENTRY:HASH")]
        expect: Option<String>,
    },
}

/// Carries a command out: what is to be printed, and failure when something does
/// not hold.
pub(crate) async fn run(
    settings: &Settings,
    command: AuditCommand,
) -> anyhow::Result<(String, ExitCode)> {
    let AuditCommand::Verify { expect } = command;
    let expected = expect.as_deref().map(parsed).transpose()?;
    let options = settings.store_options();
    anyhow::ensure!(
        settings.database.is_some() || agentry_store::exists(&options.data),
        "there is no data in {}",
        options.data.display()
    );
    let key = sealing::known(settings)?.map(|key| key.chain_key());
    let verdict = agentry_store::audit::verify(&options, key.as_ref(), expected).await?;
    let code = if verdict.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    Ok((told(&verdict), code))
}

fn told(verdict: &AuditVerdict) -> String {
    let mut lines: Vec<String> =
        verdict.faults.iter().map(|fault| format!("FAULTY  {fault}")).collect();
    lines.push(format!(
        "{} entries agree with {} seals; {} went with their age, {} are not sealed yet",
        verdict.entries, verdict.seals, verdict.trimmed, verdict.unsealed
    ));
    if !verdict.is_marked && verdict.seals > 0 && verdict.faults.is_empty() {
        lines.push(
            "without a sealing key the end has no mark: a chain that was made anew as a whole is \
             not noticed"
                .to_owned(),
        );
    }
    if let Some(head) = verdict.head {
        lines.push(format!("end: {}", shown(&head)));
    }
    lines.join("\n")
}

fn shown(head: &ChainHead) -> String {
    let hash: String = head.chain.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}:{}:{hash}", head.seals, head.seq)
}

fn parsed(text: &str) -> anyhow::Result<ChainHead> {
    let mut parts = text.splitn(3, ':');
    let mut part = || parts.next().context("an end is SEALS:ENTRY:HASH");
    let (seals, seq, hash) = (part()?.parse()?, part()?.parse()?, part()?);
    anyhow::ensure!(hash.len() == HASH_BYTES * 2 && hash.is_ascii(), "the hash has 64 digits");
    let mut chain: Hash = [0; HASH_BYTES];
    for (nth, byte) in chain.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hash[nth * 2..nth * 2 + 2], 16)?;
    }
    Ok(ChainHead { seq, seals, chain })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_read_as_it_is_shown() {
        let head = ChainHead { seq: 12, seals: 3, chain: [0xa5; HASH_BYTES] };
        assert_eq!(parsed(&shown(&head)).unwrap(), head);
        for wrong in ["", "1:2", "1:2:ff", "x:2:00", &format!("1:2:{}", "é".repeat(32))] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
