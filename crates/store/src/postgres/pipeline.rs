//! Several requests on one session without waiting in between.

use std::future::poll_fn;
use std::task::Poll;

use futures::future::BoxFuture;

/// Sends every request, in order, and then takes the answers, in order.
///
/// A request of tokio-postgres is sent when its future is first polled; joining
/// them would leave that order to the join.
pub(super) async fn pipeline<T>(mut requests: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut answers: Vec<Option<T>> = poll_fn(|cx| {
        Poll::Ready(
            requests
                .iter_mut()
                .map(|request| match request.as_mut().poll(cx) {
                    Poll::Ready(answer) => Some(answer),
                    Poll::Pending => None,
                })
                .collect(),
        )
    })
    .await;
    let mut ordered = Vec::with_capacity(answers.len());
    for (answer, request) in answers.iter_mut().zip(requests) {
        ordered.push(match answer.take() {
            Some(answer) => answer,
            None => request.await,
        });
    }
    ordered
}
