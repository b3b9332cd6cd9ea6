//! Servers without an agent, read by their own metrics.

use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};

use llmdeck_tests::{Console, binaries, wait_for};
use serde_json::Value;

/// A scripted server that runs by itself; killed when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { child: spawn(port, arguments), port };
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(server.child.try_wait().unwrap().is_none(), "the server has ended");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        server
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn ask(&self) {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, arguments: &[&str]) -> Child {
    let mut command = Command::new(&binaries().scripted_server);
    command.arg("--port").arg(port.to_string()).args(arguments).stdout(Stdio::null()).spawn().unwrap()
}

fn llmdeck(arguments: &[&str]) -> Output {
    let mut command = Command::new(&binaries().console);
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// What a look says after some requests, within one interval of its beginning.
async fn status(server: &Server) -> Value {
    wait_for("an interval with requests", async || {
        let asking = std::thread::scope(|scope| {
            let look = scope.spawn(|| llmdeck(&["status", "--json", "--target", &server.url()]));
            while !look.is_finished() {
                server.ask();
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            look.join().unwrap()
        });
        let status: Value = serde_json::from_slice(&asking.stdout).ok()?;
        let tokens = status["deployments"][0]["tokens_per_s"].as_f64()?;
        (tokens > 0.0).then_some(status)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_servers_names_become_the_same_signals() {
    for (dialect, kind, name) in [
        ("vllm", "vLLM", "scripted"),
        ("sglang", "SGLang", "scripted"),
        ("tgi", "TGI", "scripted"),
        ("llamacpp", "llama.cpp", "scripted"),
    ] {
        let server = Server::start(&["--metrics", dialect]);
        let status = status(&server).await;
        let deployment = &status["deployments"][0];
        let told = &deployment["revisions"][0]["server"];
        assert_eq!(
            (&deployment["name"], &told["kind"]),
            (&Value::from(name), &Value::from(kind)),
            "{status}"
        );
        assert_eq!(told["waiting"], 3, "{dialect}: {status}");
        assert!(status["host"]["cpu_count"].as_u64() > Some(0), "the server is on this machine: {status}");
        if dialect == "vllm" {
            let ttft = &deployment["ttft_ms"];
            assert_eq!(ttft["buckets"], serde_json::json!([[80.0, 160.0], [80.0, 160.0], [80.0, 160.0]]));
            let p50 = ttft["p50"].as_f64().unwrap();
            assert!((80.0..=161.0).contains(&p50), "{ttft}");
            assert_eq!(told["kv_used_share"], 0.25);
        }
    }
}

#[test]
fn several_servers_are_on_one_screen_and_a_dead_one_says_so() {
    let (first, second) = (Server::start(&["--metrics", "vllm"]), Server::start(&["--metrics", "llamacpp"]));
    let dead = Server::start(&[]).url();
    let mut screen = Console::start(&[&first.url(), &second.url(), &dead], 100, 30);
    screen.wait_until("all three nodes", |text| {
        text.contains(&format!("127.0.0.1:{}", first.port))
            && text.contains(&format!("127.0.0.1:{}", second.port))
            && text.contains("does not answer")
    });
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            for _ in 0..200 {
                first.ask();
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        screen.wait_until("a latency that is about", |text| text.contains('≈'));
        screen.send("\r");
        screen.wait_until("the buckets", |text| text.contains("in 80-160, 80-160, 80-160"));
        screen.send("r");
        screen.wait_until("that it cannot be changed", |text| text.contains("not changed"));
        asking.join().unwrap();
    });
}

#[test]
fn a_server_that_goes_and_comes_back_is_told_of() {
    let mut server = Server::start(&["--metrics", "vllm"]);
    let mut screen = Console::start(&[&server.url()], 100, 24);
    screen.wait_for("scripted");
    (0..20).for_each(|_| server.ask());
    screen.wait_until("that it was asked", |text| text.contains('≈'));
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    screen.wait_for("does not answer: Connection refused");
    server.child = spawn(server.port, &["--metrics", "vllm"]);
    screen.wait_for("answers again, after");
    screen.wait_for("was started anew; scripted counts from 0");
    screen.send("q");
    assert!(screen.wait());
}

#[test]
fn what_cannot_be_read_and_what_cannot_be_done_are_said() {
    let server = Server::start(&[]);
    let status = llmdeck(&["status", "--target", &server.url()]);
    let words = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(words.contains("--enable-metrics"), "{words}");
    let told = Server::start(&["--metrics", "vllm"]);
    let deploy = llmdeck(&["deploy", "scripted", "--model", "m", "--yes", "--target", &told.url()]);
    let words = String::from_utf8_lossy(&deploy.stderr).into_owned();
    assert_eq!(deploy.status.code(), Some(2));
    assert!(words.contains("can only be looked at"), "{words}");
    let wrong = llmdeck(&["status", "--target", "http://"]);
    assert_eq!(wrong.status.code(), Some(2));
}
