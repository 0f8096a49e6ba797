//! Finds the statements that read a whole table.

use crate::sql::Sql;
use crate::{Result, StoreError};

use super::connect::{Purpose, Target, statements, unprepared};

/// The names of the statements that read a whole table and were not meant to,
/// with the line of the plan that says so. Scans are priced out, so what
/// remains has no index to go by.
pub(super) async fn full_scans(target: &Target) -> Result<Vec<String>> {
    let client = target.connect(Purpose::Read, |_| ()).await?;
    let mut found = Vec::new();
    for sql in statements().filter(|sql| !sql.scans) {
        let plan = plan(&client, sql).await?;
        let whole = plan.iter().find(|line| line.contains("Seq Scan on"));
        found.extend(whole.map(|line| format!("{}: {}", sql.name, line.trim())));
    }
    Ok(found)
}

async fn plan(client: &tokio_postgres::Client, sql: &'static Sql) -> Result<Vec<String>> {
    let prepared = client.prepare(sql.postgres).await.map_err(|error| unprepared(sql, error))?;
    let nulls = vec!["null"; prepared.params().len()].join(", ");
    let values = if nulls.is_empty() { String::new() } else { format!("({nulls})") };
    let text = sql.postgres;
    client.batch_execute(&format!("prepare explained as {text}")).await?;
    let explained = client.query(&format!("explain execute explained{values}"), &[]).await?;
    client.batch_execute("deallocate explained").await?;
    explained.iter().map(|row| row.try_get(0).map_err(StoreError::from)).collect()
}
