//! The statements themselves.

use crate::bed::Bed;

pub(crate) async fn every_statement_prepares_and_none_reads_a_whole_table(bed: Bed) {
    // Opening prepares each one and fails for the first that does not.
    let store = bed.open().await;
    assert_eq!(store.full_scans().await.unwrap(), Vec::<String>::new());
}
