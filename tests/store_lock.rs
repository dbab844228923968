//! One process per data directory, and the lock ends with its process however that ends.

#[path = "support/kill.rs"]
mod kill;

use kill::{Home, PATIENCE};

#[tokio::test]
async fn a_second_agent_is_refused_until_the_first_is_gone() {
    let home = Home::new();
    let run = ["run", "--set", "paths.data=data", "--set", "devnet.validators=1"];
    let mut first = home.start(&run);
    first.line(&["Pulled a task"], PATIENCE).await.expect("the first agent works");

    let second = home.command(&run).output().await.unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(75));
    assert!(said.contains("the data directory data is in use by process"), "{said}");

    first.kill().await;
    let mut third = home.start(&run);
    third.line(&["Taking up an open task", "Pulled a task"], PATIENCE).await.expect("the third agent works");
    third.kill().await;
}
