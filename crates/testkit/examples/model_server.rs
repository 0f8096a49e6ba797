//! The model server as a program, to point a client at by hand: prints its
//! base URL, says back what it is told, and ends when its input does.

use agentry_testkit::{Behaviour, ModelServer};

#[expect(clippy::print_stdout, reason = "the base URL is this program's output")]
fn main() -> std::io::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let server = runtime.block_on(ModelServer::start());
    server.by_default(Behaviour::echo());
    println!("{}", server.base_url());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    runtime.block_on(server.stop());
    Ok(())
}
