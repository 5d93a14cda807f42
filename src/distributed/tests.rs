//! The ways to talk, and what dies while it talks, over sockets of this machine.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tcp::{Meeting, Tcp};
use super::*;
use crate::backend::Device;
use crate::op::Fill;
use crate::program::Builder;
use crate::tensor::Role;

/// A port that is free now.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn meeting(rank: usize, ranks: usize, port: u16) -> Meeting {
    Meeting { rank, ranks, address: "127.0.0.1".into(), port }
}

/// Runs `body` in `ranks` ranks, a thread each, and returns what they return, in order.
fn run<T: Send>(ranks: usize, body: impl Fn(&mut Tcp) -> T + Sync) -> Vec<T> {
    let port = port();
    std::thread::scope(|scope| {
        let body = &body;
        let start = |rank| scope.spawn(move || body(&mut Tcp::meet(&meeting(rank, ranks, port)).expect("all come")));
        let threads: Vec<_> = (0..ranks).map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("a rank")).collect()
    })
}

/// Numbers whose sum depends on the order of summation.
fn values(rank: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 + rank * 101) % 1009) as f32 * 1.1 / 10f32.powi((i + 3 * rank) as i32 % 7 - 3)).collect()
}

#[test]
fn sums_are_those_of_one_order_everywhere() {
    for ranks in [1, 2, 3, 4, 5] {
        for n in [0, 1, 3, 17, 1000, 300_001] {
            let all = run(ranks, |group| {
                let mut mine = values(group.rank(), n);
                sum(group, &mut mine).unwrap();
                let mut doubles: Vec<f64> = values(group.rank(), n).into_iter().map(f64::from).collect();
                sum(group, &mut doubles).unwrap();
                group.finish().unwrap();
                (mine, doubles)
            });
            let each: Vec<_> = (0..ranks).map(|rank| values(rank, n)).collect();
            let exact: Vec<f64> = (0..n).map(|i| each.iter().map(|v| f64::from(v[i])).sum()).collect();
            for (rank, (floats, doubles)) in all.iter().enumerate() {
                assert_eq!(*doubles, exact, "rank {rank} of {ranks}, {n} values");
                assert!(floats.iter().zip(&exact).all(|(got, want)| *got == *want as f32), "rank {rank} of {ranks}");
            }
        }
    }
}

#[test]
fn words_reach_whom_they_are_for() {
    let told = run(4, |group| {
        let me = group.rank();
        assert_eq!((group.ranks(), group.engine()), (4, "TCP"));
        let all = all_gather(group, &[me as u8, 7]).unwrap();
        let first = gather(group, &[me as u8; 3]).unwrap();
        let mut mine = vec![0; 2];
        let parts: Vec<Vec<u8>> = (0..4).map(|r| vec![10 + r, 20 + r]).collect();
        scatter(group, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut mine).unwrap();
        let mut long = if me == 0 { vec![9; 100_000] } else { vec![me as u8; me] };
        broadcast_any(group, &mut long).unwrap();
        let (yes, no) = (any(group, me == 2).unwrap(), any(group, false).unwrap());
        (all, first, mine, long, yes, no)
    });
    for (me, (all, first, mine, long, yes, no)) in told.into_iter().enumerate() {
        assert_eq!(all, [[0, 7], [1, 7], [2, 7], [3, 7]]);
        assert_eq!(first, if me == 0 { vec![vec![0; 3], vec![1; 3], vec![2; 3], vec![3; 3]] } else { vec![] });
        assert_eq!(mine, [10 + me as u8, 20 + me as u8]);
        assert_eq!(long, vec![9; 100_000]);
        assert!(yes && !no);
    }
}

#[test]
fn tensors_are_summed_in_place() {
    for float in [DType::F32, DType::F64] {
        let sums = run(3, |group| {
            let mut b = Builder::new(float);
            let [x, y] = ["x", "y"].map(|name| b.tensor(name, [5, 3], float, Role::Memory));
            let n = b.tensor("n", [2], DType::I32, Role::Input);
            for out in [x, y] {
                b.push(Fill { out, value: 1.5 }).unwrap();
            }
            let mut exec = Device::Cpu.open(Arc::new(b.finish().unwrap())).unwrap();
            exec.run_phase("run").unwrap();
            exec.upload_f32(y, &values(group.rank(), 15)).unwrap();
            group.sum_tensors(&mut *exec, &[y, x]).unwrap();
            let refused = group.sum_tensors(&mut *exec, &[n]).unwrap_err().to_string();
            assert!(refused.contains("n must be"), "{refused}");
            (exec.download_f32(x).unwrap(), exec.download_f32(y).unwrap())
        });
        let want: Vec<f32> =
            (0..15).map(|i| (0..3).map(|rank| f64::from(values(rank, 15)[i])).sum::<f64>() as f32).collect();
        assert!(sums.iter().all(|(x, y)| *x == [4.5; 15] && *y == want), "{sums:?}");
    }
}

/// A rank vanishes in the middle of much data; all others name it, whomever they noticed first.
#[test]
fn a_rank_that_vanishes_is_named() {
    for (dead, bytes) in [(2, 1), (0, 1), (2, 5 << 20), (0, 5 << 20), (3, 5 << 20)] {
        let began = Instant::now();
        let ends = run(4, |group| {
            for round in 0.. {
                if group.rank() == dead && round == 3 {
                    return String::new(); // closes all sockets, as the system does for a dead process
                }
                if let Err(e) = all_gather(group, &vec![1; bytes]) {
                    group.fail(&e);
                    return e.to_string();
                }
            }
            unreachable!()
        });
        for rank in (0..4).filter(|&rank| rank != dead) {
            assert!(ends[rank].starts_with(&format!("rank {dead} (process ")), "rank {rank}: {}", ends[rank]);
            assert!(ends[rank].contains("has ended without a word"), "rank {rank}: {}", ends[rank]);
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}

#[test]
fn a_rank_that_fails_says_why() {
    let ends = run(3, |group| {
        if group.rank() == 1 {
            group.fail(&Error::config("the disk is full"));
            return String::new();
        }
        let e = all_gather(group, &vec![1; 1 << 20]).unwrap_err();
        group.fail(&e);
        let again = all_gather(group, &[1]).unwrap_err();
        assert_eq!(e.to_string(), again.to_string());
        e.to_string()
    });
    for rank in [0, 2] {
        assert!(ends[rank].starts_with("rank 1 (process "), "{}", ends[rank]);
        assert!(ends[rank].ends_with("failed: the disk is full"), "{}", ends[rank]);
    }
}

#[test]
fn ranks_at_different_places_are_found_out() {
    let ends = run(2, |group| {
        let bytes = 3 + group.rank();
        all_gather(group, &vec![0; bytes]).unwrap_err().to_string()
    });
    assert!(ends[0].contains("rank 1 ") && ends[0].contains("sent 4 bytes where 3 were expected"), "{}", ends[0]);
    assert!(ends[1].contains("rank 0 ") && ends[1].contains("sent 3 bytes where 4 were expected"), "{}", ends[1]);
}

#[test]
fn strangers_are_left_at_the_door() {
    let port = port();
    std::thread::scope(|scope| {
        let first = scope.spawn(move || Tcp::meet(&meeting(0, 2, port)).map(|_| ()));
        let stranger = loop {
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
                use std::io::Write;
                stream.write_all(b"GET / HTTP/1.1\r\nHost: me\r\n\r\n").unwrap();
                break stream;
            }
        };
        Tcp::meet(&meeting(1, 2, port)).unwrap();
        first.join().unwrap().unwrap();
        drop(stranger);
    });
}

#[test]
fn ranks_that_do_not_fit_are_refused() {
    for (rank, ranks, part) in [(1, 3, "WORLD_SIZE is 2 at rank 0, but 3 at rank 1"), (0, 2, "RANK must be another")] {
        let port = port();
        std::thread::scope(|scope| {
            let first = scope.spawn(move || Tcp::meet(&meeting(0, 2, port)).map(|_| ()).unwrap_err().to_string());
            if rank == 0 {
                // A second rank 0 cannot listen where the first does.
                while TcpStream::connect(("127.0.0.1", port)).is_err() {}
                let sentence = Tcp::meet(&meeting(0, 2, port)).map(|_| ()).unwrap_err().to_string();
                assert!(sentence.contains("MASTER_PORT"), "{sentence}");
                // Nor can a process join that does not know its number.
                let _ = Tcp::meet(&meeting(2, 2, port)).map(|_| ()).unwrap_err().to_string();
            } else {
                let sentence = Tcp::meet(&meeting(rank, ranks, port)).map(|_| ()).unwrap_err().to_string();
                assert!(sentence.contains(part), "{sentence}");
            }
            let sentence = first.join().unwrap();
            assert!(sentence.contains(part), "{sentence}");
        });
    }
}
