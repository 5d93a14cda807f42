//! The predictor, alone and behind HTTP; vectors of texts; guesses and continuations.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use xlnet::api::{Batch, RunConfig, XlnetModel};
use xlnet::backend::Device;
use xlnet::data::text::TextOptions;
use xlnet::model::heads::SummaryType;
use xlnet::task::config::FinetuneConfig;
use xlnet::task::embed::{EmbedOptions, Embedder, Layers, Pooling};
use xlnet::task::fine_tuned::FineTuned;
use xlnet::task::generate::{LanguageModel, Sampling};
use xlnet::task::predict::{Predictor, Request, Response};
use xlnet::tensor::Role;

use crate::common::{NAMES, Place, belongings, language_model, train};

/// A place with a classifier in `run/best`, trained a little.
fn classifier() -> Place {
    let place = Place::new();
    let row = |i: usize| format!("{}\tthe weather was {} , {}\n", i % 2, ["bad", "good"][i % 2], belongings(i));
    let rows = format!("label\ttext_a\n{}", (0..16).map(row).collect::<String>());
    place.write("train.tsv", &rows);
    place.write("dev.tsv", &rows);
    train(FinetuneConfig { train_steps: Some(30), max_seq_length: Some(64), ..place.config("csc", "run") });
    place
}

fn text(i: usize) -> String {
    let part = |k: usize| format!("{} has {} and ", NAMES[(i + k) % 8], belongings(i * 3 + k));
    (0..1 + i % 4).map(part).collect::<String>() + ["it is good", "it is bad"][i % 2]
}

fn request(text: &str) -> Request {
    Request { text: Some(text.into()), ..Request::default() }
}

fn share(response: &Response) -> f32 {
    let Response::Class { probabilities, .. } = response else { panic!("{response:?} is no class") };
    probabilities["1"]
}

/// A server that is stopped when the test ends, however it ends.
struct Server {
    child: Child,
    address: String,
}
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}
impl Server {
    fn start(place: &Place, more: &[&str]) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_xlnet"))
            .current_dir(place.path())
            .args(["serve", "--model_dir", "run/best", "--address", "127.0.0.1:0", "--device", "cpu"])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address =
            line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default().to_owned();
        assert!(!address.is_empty(), "{line}");
        Server { child, address }
    }
    /// Status and body.
    fn send(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let _ = stream.write_all(body); // a server may answer before it has read all
        let mut answer = vec![];
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        (status, answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned())
    }
}

#[test]
fn a_thousand_requests_and_bad_ones() {
    let place = classifier();
    let model = FineTuned::open(&place.path().join("run"), Device::Cpu, 1).unwrap();
    let alone = Predictor::new(model, 8).unwrap();
    let texts: Vec<String> = (0..40).map(text).collect();
    let expected: Vec<f32> =
        texts.iter().map(|text| share(alone.predict(&[request(text)])[0].as_ref().unwrap())).collect();

    let mut server = Server::start(&place, &["--max-body", "20KiB"]);
    let (next, worst) = (AtomicUsize::new(0), Mutex::new(0f32));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= 1000 {
                        break;
                    }
                    let k = i % texts.len();
                    let body = json!({"text": texts[k]}).to_string();
                    let (status, answer) = server.send("POST", "/predict", body.as_bytes());
                    assert_eq!(status, 200, "{answer}");
                    let got = share(&serde_json::from_str(&answer).unwrap());
                    let mut worst = worst.lock().unwrap();
                    *worst = worst.max((got - expected[k]).abs());
                }
            });
        }
    });
    let worst = *worst.lock().unwrap();
    assert!(worst <= 2e-6, "batches change answers by {worst}");

    let post = |body: &[u8]| server.send("POST", "/predict", body);
    for (body, status, part) in [
        (&b"{\"text\": "[..], 400, "no JSON"),
        (b"[1, 2]", 400, "JSON object"),
        (b"{\"txt\": \"a\"}", 400, "unknown field"),
        (b"{\"text\": 7}", 400, "invalid type"),
        (b"{\"text\": \"  \"}", 400, "text is empty"),
        (b"{}", 400, "text is missing"),
        (b"{\"text\": \"a\", \"question\": \"b\"}", 400, "no field question"),
        (b"\xff\xfe", 400, "no JSON"),
    ] {
        let (got, answer) = post(body);
        assert!(got == status && answer.contains(part), "{got} {answer}");
    }
    assert_eq!(post(&vec![b'a'; 100_000]).0, 413);
    let (status, answer) = post(br#"{"requests": [{"text": "it is good"}, {"question": "b"}]}"#);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(status, 200);
    assert!(answer["responses"][0]["label"].is_string() && answer["responses"][1]["error"].is_string(), "{answer}");
    assert_eq!(server.send("GET", "/nowhere", b"").0, 404);
    assert_eq!(server.send("GET", "/predict", b"").0, 405);
    // Clients that hang up, before and after their request.
    for i in 0..20 {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        let length = if i % 2 == 0 { 22 } else { 1000 };
        let _ = write!(
            stream,
            "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{{\"text\": \"it is good\"}}"
        );
    }
    let (status, health) = server.send("GET", "/health", b"");
    assert!(status == 200 && health.contains("\"ok\"") && health.contains("csc"), "{health}");
    let (_, metrics) = server.send("GET", "/metrics", b"");
    let answered = metrics.lines().find_map(|l| l.strip_prefix("xlnet_requests_total{outcome=\"answered\"} "));
    assert!(answered.and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n >= 1001), "{metrics}");
    assert!(metrics.contains("refused\"} 9") || metrics.contains("refused\"} 8"), "{metrics}");

    // SIGTERM ends it in good order.
    let pid = server.child.id().to_string();
    assert!(Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).status().unwrap().success());
    assert!(server.child.wait().unwrap().success());
}

/// Programs for other numbers and lengths of requests hold no weights, and as many are kept as is said.
#[test]
fn weights_are_there_once() {
    let place = classifier();
    let model = || FineTuned::open(&place.path().join("run"), Device::Cpu, 4).unwrap();
    let shares = |predictor: &Predictor, texts: &[String]| -> Vec<f32> {
        let requests: Vec<Request> = texts.iter().map(|text| request(text)).collect();
        predictor.predict(&requests).iter().map(|response| share(response.as_ref().unwrap())).collect()
    };
    let texts: Vec<String> = (0..8).map(text).collect();
    let many = Predictor::new(model(), 8).unwrap();
    let first = many.held_bytes();
    let (mut alone, mut held) = (vec![], vec![first]);
    for text in &texts {
        alone.extend(shares(&many, std::slice::from_ref(text)));
        held.push(many.held_bytes());
    }
    let together = shares(&many, &texts);
    assert!(alone.iter().zip(&together).all(|(a, b)| (a - b).abs() < 2e-6), "{alone:?} {together:?}");

    // A program for the first text of some length, to the byte what it is without weights; none for the next such text.
    let grown: Vec<usize> = held.windows(2).map(|pair| pair[1] - pair[0]).filter(|&bytes| bytes > 0).collect();
    let model = model();
    let without_weights = |length: usize| {
        let mut session = model.setup.session(1, length, &model.weights).unwrap();
        let plan = session.exec().plan();
        plan.total_bytes() - plan.arena_bytes(Role::Param)
    };
    let expected: Vec<usize> = (1..=8).map(|i| without_weights(8 * i)).collect();
    assert!((2..8).contains(&grown.len()), "{grown:?}");
    assert!(grown.iter().all(|bytes| expected.contains(bytes)), "{grown:?} {expected:?}");

    let one = Predictor::new(model, 1).unwrap(); // does all with one program
    let same = shares(&one, &texts);
    assert!(same.iter().zip(&together).all(|(a, b)| (a - b).abs() < 2e-6));
    assert_eq!(one.held_bytes(), first);
}

#[test]
fn a_full_queue_refuses() {
    let place = classifier();
    let server = Server::start(&place, &["--queue", "2", "--batch", "1"]);
    let requests: Vec<Value> = (0..3).map(|i| json!({"text": text(i)})).collect();
    let (status, answer) = server.send("POST", "/predict", json!({"requests": requests}).to_string().as_bytes());
    assert!(status == 413 && answer.contains("2 are allowed"), "{status} {answer}");
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for i in 0..64 {
            let (server, refused) = (&server, &refused);
            scope.spawn(move || {
                let (status, _) = server.send("POST", "/predict", json!({"text": text(i)}).to_string().as_bytes());
                assert!([200, 503].contains(&status), "{status}");
                refused.fetch_add(usize::from(status == 503), Ordering::Relaxed);
            });
        }
    });
    // All 64 are never taken at once by a queue of two; how many are refused is a matter of speed.
    println!("{} of 64 refused", refused.load(Ordering::Relaxed));
    assert_eq!(server.send("GET", "/health", b"").0, 200);
}

#[test]
fn vectors_do_not_depend_on_their_neighbours() {
    let place = Place::new();
    let dir = language_model(&place);
    let options = |pooling, layers| EmbedOptions {
        layers,
        pooling,
        text: TextOptions::default(),
        max_seq_length: 40,
        batch: 3,
        device: Device::Cpu,
    };
    let texts: Vec<String> =
        ["anna has books", "the café is good ||| boris has 2,000 cats", "good", ""].map(str::to_owned).to_vec();
    let embedder = Embedder::open(&dir, None, options(Pooling::None, Layers::Last)).unwrap();
    let all = embedder.embed(&texts).unwrap();
    for (text, together) in texts.iter().zip(&all) {
        let alone = &embedder.embed(std::slice::from_ref(text)).unwrap()[0];
        assert_eq!(alone.tokens, together.tokens);
        for (a, b) in alone.vectors.iter().flatten().zip(together.vectors.iter().flatten()) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
        // Every token but SEP and CLS stands where it says.
        for token in &together.tokens {
            if let Some((start, end)) = token.characters {
                let characters: String = text.chars().skip(start).take(end - start).collect();
                let piece = token.piece.trim_start_matches('\u{2581}');
                assert_eq!(characters.replace('é', "e").trim(), piece, "{text}");
            }
        }
    }
    assert_eq!(all[3].tokens.len(), 2);
    assert_eq!(all[1].tokens.iter().filter(|t| t.piece == "<sep>").count(), 2);
    let pooled = |pooling, layers| Embedder::open(&dir, None, options(pooling, layers)).unwrap().embed(&texts).unwrap();
    assert_eq!(pooled(Pooling::Cls, Layers::Last)[0].vectors[0], *all[0].vectors.last().unwrap());
    let (one, two) = (pooled(Pooling::Mean, Layers::One(1)), pooled(Pooling::Mean, Layers::One(2)));
    let mean = pooled(Pooling::Mean, Layers::MeanOfLast(2));
    for ((a, b), m) in one[0].vectors[0].iter().zip(&two[0].vectors[0]).zip(&mean[0].vectors[0]) {
        assert!(((a + b) / 2.0 - m).abs() < 1e-5);
    }
    let sentence = Embedder::open(&dir, None, options(Pooling::None, Layers::One(3))).err().unwrap().to_string();
    assert!(sentence.contains("the model has 2 layers"), "{sentence}");
}

#[test]
fn guesses_and_continuations() {
    let place = Place::new();
    let dir = language_model(&place);
    let model = LanguageModel::open(&dir, None, TextOptions::default(), Device::Cpu).unwrap();
    let guesses = model.fill("anna has <mask> books and <mask>.", 4).unwrap();
    assert_eq!((guesses.len(), guesses[0].len()), (2, 4));
    assert!(guesses[0].windows(2).all(|pair| pair[0].probability >= pair[1].probability));
    assert!(model.fill("nothing", 1).unwrap_err().to_string().contains("<mask>"));

    let how = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 5, tokens: 12, mem_len: 20 };
    let text = "the weather was nice or awful and galina has books ".repeat(8); // more than one chunk
    let run = |how: &Sampling| {
        let mut ids = vec![];
        model
            .generate(&text, how, &mut |id| {
                ids.push(id);
                true
            })
            .unwrap();
        ids
    };
    let first = run(&how);
    assert!(!first.is_empty() && first.len() <= 12);
    assert_eq!(run(&how), first, "the same seed writes the same text");
    assert_ne!(run(&Sampling { seed: 6, ..how }), first);
    let greedy = Sampling { temperature: 0.0, ..how };
    assert_eq!(run(&Sampling { seed: 9, ..greedy }), run(&greedy));
    assert!(model.generate(" ", &how, &mut |_| true).unwrap_err().to_string().contains("empty"));
}

/// The original's abstraction: the same answers as the embedder's, and memories that carry over.
#[test]
fn the_model_as_the_original_has_it() {
    let place = Place::new();
    let dir = language_model(&place);
    let ids: Vec<i32> = place.tokenizer().encode_ids("anna has books").unwrap().iter().map(|&id| id as i32).collect();
    let input_ids = [ids.clone(), vec![4, 3]].concat();
    let length = input_ids.len();
    let run = RunConfig { batch: 1, length, mem_len: 0, ..RunConfig::default() };
    let mut model = XlnetModel::from_pretrained(&dir, &run).unwrap();
    let seg_ids = [vec![0; length - 1], vec![2]].concat();
    let batch = Batch { input_ids, seg_ids, input_mask: vec![0; length] };
    model.run(&batch).unwrap();
    let options = EmbedOptions {
        layers: Layers::Last,
        pooling: Pooling::None,
        text: TextOptions::default(),
        max_seq_length: 40,
        batch: 1,
        device: Device::Cpu,
    };
    let embedded = &Embedder::open(&dir, None, options).unwrap().embed(&["anna has books".to_owned()]).unwrap()[0];
    let got = model.sequence_output().unwrap();
    assert!(got.iter().zip(embedded.vectors.iter().flatten()).all(|(a, b)| (a - b).abs() < 1e-5));
    assert_eq!(model.pooled_out(SummaryType::Last, false).unwrap(), got[(length - 1) * 32..]);
    assert!(model.pooled_out(SummaryType::Mean, true).unwrap().iter().all(|x| x.abs() <= 1.0));
    assert_eq!(model.new_memory().unwrap().len(), 0);

    let mut model = XlnetModel::from_pretrained(&dir, &RunConfig { mem_len: 5, ..run }).unwrap();
    model.run(&batch).unwrap();
    let memory = model.new_memory().unwrap();
    assert_eq!((memory.len(), memory[0].len()), (2, 5 * 32));
    let table = model.embedding_table().unwrap();
    // The newest memory of the first layer is the embedding of CLS.
    assert_eq!(memory[0][4 * 32..], table[3 * 32..4 * 32]);
    model.run(&batch).unwrap();
    let second = model.sequence_output().unwrap();
    model.set_memory(&memory).unwrap();
    model.run(&batch).unwrap();
    assert_eq!(model.sequence_output().unwrap(), second);
}
