//! `remedyd health`, by which the image's HEALTHCHECK asks: what the service says of itself, as an exit code.

use std::process::Command;

use crate::process::{Process, within};
use crate::service::remedyd;
use crate::tools::{Said, read, said};
use tempfile::TempDir;

/// Nobody listens there.
const NO_BROKER: &str = "amqp://127.0.0.1:1/%2f";

async fn ask(url: &str, more: &[&str]) -> Said {
    let mut command = remedyd(["health", "--url", url]);
    command.args(more);
    within("an answer", async { tokio::task::spawn_blocking(move || said(command, "")).await.unwrap() }).await
}

fn service(store: &TempDir) -> Command {
    let mut command = remedyd(["serve", "--clock", "events", "--store"]);
    command.arg(store.path()).env("REMEDYD_AMQP_URL", NO_BROKER);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_says_how_it_is() {
    let store = TempDir::new().unwrap();
    let (mut process, address) = Process::watched(service(&store)).await;
    let url = format!("http://{address}");
    // by now it has read its store
    process.line_with(&["connection lost"]).await;
    for probe in [&[][..], &["--probe", "live"], &["--probe", "started"]] {
        let said = ask(&url, probe).await;
        assert_eq!((said.code, said.stdout.as_str()), (Some(0), "ok\n"), "{probe:?}: {}", said.all());
    }
    let said = ask(&url, &["--probe", "ready"]).await;
    assert!(said.code == Some(1) && said.stdout.contains("broker: not connected"), "{}", said.all());
    // a process that hangs takes connections and answers nothing
    process.signal("STOP");
    let said = ask(&url, &[]).await;
    assert!(said.code == Some(69) && said.stderr.contains("no answer within 5 s"), "{}", said.all());
    process.signal("CONT");
    process.stop().await;
    let said = ask(&url, &[]).await;
    assert!(said.code == Some(69) && said.stderr.contains("cannot be reached"), "{}", said.all());
    assert_eq!(ask("https://127.0.0.1:1", &[]).await.code, Some(64));
}

/// The image's check waits longer than the program does, so that what it says is heard.
#[test]
fn the_image_asks_in_time() {
    let dockerfile = read("deploy/docker/Dockerfile");
    let check = dockerfile.lines().find(|line| line.starts_with("HEALTHCHECK")).unwrap();
    assert!(check.contains("--timeout=6s") && check.contains("\"/usr/bin/remedyd\", \"health\""), "{check}");
}
