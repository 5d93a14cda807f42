//! Programs of whole models, without running them.

use xlnet::backend::Device;
use xlnet::config::XlnetConfig;
use xlnet::model::heads::{SummaryOptions, SummaryType};
use xlnet::model::{QueryKind, TransformerOptions};
use xlnet::tensor::DType;
use xlnet::train::step::{Objective, StepOptions, StepProgram};

fn inference(config: &XlnetConfig, objective: Objective, query: QueryKind) -> StepProgram {
    let transformer = TransformerOptions { batch: 1, length: 8, query, ..Default::default() };
    let options = StepOptions { transformer, objective, accumulate: 1, float: DType::F32, optimizer: None };
    StepProgram::build(config, &options).expect("a published model")
}

#[test]
fn parameter_counts() {
    let summary = SummaryOptions { kind: SummaryType::Last, projection: true };
    for (config, pretraining, classifying) in [
        (XlnetConfig::base(), 116_750_336, 117_308_160),
        (XlnetConfig::large(), 360_300_800, 361_317_376),
        (XlnetConfig::chinese_base(), 116_750_336, 117_308_160),
        (XlnetConfig::chinese_mid(), 208_891_904, 209_449_728),
    ] {
        let lm = inference(&config, Objective::LanguageModel, QueryKind::Targets(2));
        assert_eq!(lm.parameter_count(), pretraining);
        let regression = inference(&config, Objective::Regression { summary }, QueryKind::None);
        assert_eq!(regression.parameter_count(), classifying + config.d_model + 1);
    }
    // What the original logs for Large with a regression head.
    let large = inference(&XlnetConfig::large(), Objective::Regression { summary }, QueryKind::None);
    assert_eq!(large.parameter_count(), 361_318_401);
}

#[test]
fn devices_that_do_not_exist_say_so() {
    for (text, missing) in [("cuda:0", "PTX"), ("wgpu:99", "wgpu:99")] {
        let error = text.parse::<Device>().and_then(Device::resolve).expect_err("no such backend yet").to_string();
        assert!(error.contains(missing) && error.contains("--device cpu"), "{error}");
    }
    for text in ["", "tpu", "cpu:1", "wgpu:x", "cuda:-1", "auto:0"] {
        let error = text.parse::<Device>().expect_err("no device").to_string();
        assert!(error.contains("expected auto"), "{error}");
    }
}

/// Conformance vectors computed by the original program: a tiny model with weights given by a formula.
mod tiny_vectors {
    use std::collections::BTreeMap;

    use xlnet::Result;
    use xlnet::backend::Device;
    use xlnet::config::{FeedForwardActivation, XlnetConfig};
    use xlnet::model::original::{OriginalNames, OriginalVariable};
    use xlnet::model::{MaskKind, QueryKind, TransformerOptions};
    use xlnet::op::{Adam, Op};
    use xlnet::program::Builder;
    use xlnet::tensor::{DType, Role};
    use xlnet::train::schedule::Schedule;
    use xlnet::train::session::Session;
    use xlnet::train::step::{Objective, OptimizerOptions, StepOptions};

    const DEVICES: [Device; 2] = [Device::Cpu, Device::CpuReference];

    fn config() -> XlnetConfig {
        XlnetConfig {
            n_layer: 2,
            d_model: 4,
            n_head: 2,
            d_head: 2,
            d_inner: 6,
            ff_activation: FeedForwardActivation::Gelu,
            untie_r: true,
            n_token: 7,
        }
    }

    fn optimizer() -> OptimizerOptions {
        let schedule = Schedule { learning_rate: 0.01, min_lr_ratio: 1.0, ..Schedule::default() };
        OptimizerOptions { schedule, clip: 0.0, adam_epsilon: 1e-6, ..OptimizerOptions::default() }
    }

    /// Our tensors' places in the original's variables, and the number of each variable in sorted order.
    fn variables(session: &Session) -> (Vec<OriginalVariable>, BTreeMap<String, usize>) {
        let (names, step) = (OriginalNames::default(), session.program());
        let of = |&id| names.variable(&step.program.tensor(id).name, true).expect("a variable of the original");
        let all: Vec<OriginalVariable> = step.params.iter().map(of).collect();
        let mut sorted: Vec<String> = all.iter().map(|v| v.name.clone()).collect();
        sorted.sort();
        sorted.dedup();
        (all, sorted.into_iter().enumerate().map(|(v, name)| (name, v)).collect())
    }

    fn upload_weights(session: &mut Session) -> Result<usize> {
        let (all, order) = variables(session);
        let step = session.program().clone();
        for (&id, variable) in step.params.iter().zip(&all) {
            let shape = step.program.tensor(id).shape;
            let (v, n) = (order[&variable.name] as f64, shape.len());
            let values: Vec<f64> = (0..n)
                .map(|i| {
                    let k = match (variable.layer, variable.transposed) {
                        (Some(layer), _) => layer * n + i,
                        (None, true) => i % shape.last() * shape.dims()[0] + i / shape.last(),
                        (None, false) => i,
                    };
                    let wave = (1.7 * v + 0.37 * k as f64).sin();
                    if variable.name.ends_with("gamma") { 1.0 + 0.1 * wave } else { 0.5 * wave }
                })
                .collect();
            session.exec().upload_f64(id, &values)?;
        }
        session.input_i32("input_ids", &[1, 5, 3, 2, 4, 0, 6, 2])?; // [B, L]
        session.input_i32("segment_ids", &[0, 0, 1, 2, 0, 1, 1, 2])?;
        Ok(order.len())
    }

    fn close(got: &[f64], want: &[f64], bound: f64, what: &str) {
        assert_eq!(got.len(), want.len(), "{what}");
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            assert!((g - w).abs() <= bound, "{what}[{i}]: {g}, expected {w}"); // also fails for NaN
        }
    }

    #[test]
    fn fine_tuning() {
        let want = [
            1.38077, -0.260896, -0.768799, -1.583674, 1.378846, -0.313029, -0.686681, -1.611105, -0.653291, -1.190814,
            -0.236891, 1.059316, 1.327565, -1.166968, -1.081517, -0.236856, -0.846712, -1.111017, -0.034498, 0.97418,
            -0.654109, -1.247639, -0.120298, 0.999976, 1.425239, -0.318262, -0.877729, -1.457901, 1.422246, -1.041551,
            -1.071623, -0.483272,
        ];
        for float in [DType::F32, DType::F64] {
            for device in DEVICES {
                let transformer =
                    TransformerOptions { batch: 2, length: 4, mask: MaskKind::Padding, ..Default::default() };
                let options =
                    StepOptions { transformer, objective: Objective::Hidden, accumulate: 1, float, optimizer: None };
                let mut session = Session::new(&config(), options, device, 0).expect("a session");
                assert_eq!(upload_weights(&mut session).expect("weights"), 31);
                session.input_i32("padding", &[0, 0, 0, 0, 1, 0, 0, 0]).expect("padding");
                session.exec().run_phase("forward").expect("a run");
                let last = *session.program().outputs.last().expect("hidden states");
                close(&session.exec().download_f64(last).expect("output"), &want, 3e-6, "output");
            }
        }
    }

    /// One row of the gradient table: variable, then norm and first element without and with bi_data.
    type GradientRow = (&'static str, [f64; 4]);
    #[rustfmt::skip]
    const GRADIENTS: &[GradientRow] = &[
        ("model/lm_loss/bias", [0.319121, 0.159306, 0.321016, 0.158329]),
        ("model/transformer/word_embedding/lookup_table", [0.698316, -0.209872, 0.630658, 0.0511459]),
        ("model/transformer/mask_emb/mask_emb", [0.261511, -0.213962, 0.2594, -0.216744]),
        ("model/transformer/seg_embed", [0.0125133, 0.00149646, 0.0170696, 0.00311332]),
        ("model/transformer/r_w_bias", [0.00348182, -1.33524e-06, 0.00785184, -0.000276794]),
        ("model/transformer/r_r_bias", [0.00784547, 0.00303452, 0.0177194, 0.0070367]),
        ("model/transformer/r_s_bias", [0.0112031, -0.00554128, 0.0160723, -0.00763539]),
        ("model/transformer/layer_0/rel_attn/q/kernel", [0.00775974, -0.00253582, 0.00519879, -0.00185406]),
        ("model/transformer/layer_0/rel_attn/k/kernel", [0.0118951, -2.62034e-05, 0.00523673, 0.000285927]),
        ("model/transformer/layer_0/rel_attn/v/kernel", [0.0754176, -0.0286699, 0.0317917, -0.0178122]),
        ("model/transformer/layer_0/rel_attn/r/kernel", [0.00536339, -0.00117218, 0.0107297, -0.0012638]),
        ("model/transformer/layer_0/rel_attn/o/kernel", [0.0461186, -0.0174562, 0.0289119, -0.0115994]),
        ("model/transformer/layer_0/rel_attn/LayerNorm/beta", [0.0323962, -0.019076, 0.03541, -0.0139712]),
        ("model/transformer/layer_0/rel_attn/LayerNorm/gamma", [0.0197106, -0.016271, 0.0262077, -0.0228706]),
        ("model/transformer/layer_0/ff/layer_1/kernel", [0.00610952, 0.000730268, 0.00647451, 0.000767794]),
        ("model/transformer/layer_0/ff/layer_1/bias", [0.00510919, 0.000789812, 0.00564285, 0.000738834]),
        ("model/transformer/layer_0/ff/layer_2/kernel", [0.011482, 0.00347609, 0.0167034, 0.0027271]),
        ("model/transformer/layer_0/ff/layer_2/bias", [0.0315785, -0.0194991, 0.0343498, -0.0146666]),
        ("model/transformer/layer_0/ff/LayerNorm/beta", [0.0730297, -0.0404663, 0.102843, -0.0516627]),
        ("model/transformer/layer_0/ff/LayerNorm/gamma", [0.0245635, 0.00492917, 0.0320506, 0.0100649]),
        ("model/transformer/layer_1/rel_attn/q/kernel", [0.0125693, -0.00198475, 0.0164621, -0.000691122]),
        ("model/transformer/layer_1/rel_attn/k/kernel", [0.0193016, 0.00404894, 0.0325279, 0.00668106]),
        ("model/transformer/layer_1/rel_attn/v/kernel", [0.0484568, 0.0199717, 0.0771189, 0.0261814]),
        ("model/transformer/layer_1/rel_attn/r/kernel", [0.0342457, -0.00951787, 0.0472479, -0.0237138]),
        ("model/transformer/layer_1/rel_attn/o/kernel", [0.0588963, 0.0121534, 0.0891043, 0.0195425]),
        ("model/transformer/layer_1/rel_attn/LayerNorm/beta", [0.0686006, -0.0528218, 0.0872343, -0.0662404]),
        ("model/transformer/layer_1/rel_attn/LayerNorm/gamma", [0.0740455, 0.032949, 0.101762, 0.0479838]),
        ("model/transformer/layer_1/ff/layer_1/kernel", [0.094717, -0.00188456, 0.123857, -0.00312259]),
        ("model/transformer/layer_1/ff/layer_1/bias", [0.0455245, 0.00583747, 0.0590198, 0.00723338]),
        ("model/transformer/layer_1/ff/layer_2/kernel", [0.196398, -0.0788606, 0.255888, -0.10261]),
        ("model/transformer/layer_1/ff/layer_2/bias", [0.0712596, -0.0537676, 0.0902207, -0.0674069]),
        ("model/transformer/layer_1/ff/LayerNorm/beta", [0.0491437, 0.00352186, 0.0599187, 0.000405237]),
        ("model/transformer/layer_1/ff/LayerNorm/gamma", [0.129829, 0.110853, 0.112606, 0.0811151]),
    ];

    /// Hidden keys of both batch rows, as bits.
    fn mask_bits() -> Vec<u32> {
        let hidden = [
            [[0, 1, 1, 1], [0, 1, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0]],
            [[1, 0, 0, 1], [1, 0, 0, 1], [1, 0, 0, 1], [0, 0, 0, 0]],
        ];
        let word = |row: &[u32; 4]| row.iter().enumerate().map(|(j, bit)| bit << j).sum();
        hidden.iter().flatten().map(word).collect()
    }

    fn pretraining_session(device: Device, float: DType, bi_data: bool) -> Result<Session> {
        let transformer = TransformerOptions {
            batch: 2,
            length: 4,
            memory: 3,
            mem_len: 4,
            reuse_len: Some(2),
            bi_data,
            mask: MaskKind::Bits,
            query: QueryKind::Targets(2),
            ..Default::default()
        };
        let optimizer = Some(optimizer());
        let options = StepOptions { transformer, objective: Objective::LanguageModel, accumulate: 1, float, optimizer };
        let mut session = Session::new(&config(), options, device, 0)?;
        assert_eq!(upload_weights(&mut session)?, 33);
        let step = session.program().clone();
        for (l, &id) in step.memory.iter().enumerate() {
            // Formula over [M, B, d]; ours is [B, M, d].
            let value =
                |b: usize, m: usize, c: usize| 0.3 * (0.5 * l as f64 + 0.21 * ((m * 2 + b) * 4 + c) as f64).cos();
            let values: Vec<f64> = (0..24).map(|i| value(i / 12, i / 4 % 3, i % 4)).collect();
            session.exec().upload_f64(id, &values)?;
        }
        let bits = step.program.find("mask_bits").expect("an input");
        session.exec().upload_u32(bits, &mask_bits())?;
        session.input_i32("target_positions", &[1, 2, 0, -1])?;
        session.input_i32("targets", &[5, 3, 4, 0])?;
        session.input_f32("target_weights", &[1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 0.0])?;
        session.input_i32("direction", &[0, 1])?;
        Ok(session)
    }

    #[test]
    fn pretraining() {
        for (bi_data, loss) in [(false, 1.6881002), (true, 1.7134333)] {
            for float in [DType::F32, DType::F64] {
                for device in DEVICES {
                    let mut session = pretraining_session(device, float, bi_data).expect("a session");
                    let got = session.backward().expect("a run");
                    assert!((got - loss).abs() < 2e-6, "loss {got}, expected {loss}");
                    check_memory_and_gradients(&mut session, bi_data);
                }
            }
        }
    }

    fn check_memory_and_gradients(session: &mut Session, bi_data: bool) {
        let step = session.program().clone();
        let memory = [
            -0.171664, -0.219181, -0.257067, -0.283658, -0.225856, -0.179733, -0.125712, -0.066168, -1.000881,
            0.210535, 1.132636, 0.969588, -0.784226, -0.020155, 0.731081, 1.385581,
        ];
        let got = session.exec().download_f64(step.new_memory[1]).expect("new memory");
        close(&got[..16], &memory, 2e-6, "new memory of layer 1");

        let (all, _) = variables(session);
        let column = if bi_data { 2 } else { 0 };
        let trained = &step.update.as_ref().expect("a training program").trained;
        let mut checked = 0;
        for (name, row) in GRADIENTS {
            let (mut squares, mut first) = (0.0, None);
            for t in trained {
                let at = step.params.iter().position(|&id| id == t.param).expect("a parameter");
                if all[at].name == *name {
                    let grad = session.exec().download_f64(t.grad).expect("a gradient");
                    squares += grad.iter().map(|g| g * g).sum::<f64>();
                    first.get_or_insert(grad[0]);
                }
            }
            let (norm, first) = (squares.sqrt(), first.expect("a gradient of every variable"));
            let (want_norm, want_first) = (row[column], row[column + 1]);
            assert!((norm / want_norm - 1.0).abs() < 2e-5, "{name}: norm {norm}, expected {want_norm}");
            assert!((first - want_first).abs() < 2e-5 * want_norm, "{name}: first {first}, expected {want_first}");
            checked += 1;
        }
        assert_eq!(checked, 33);
    }

    #[test]
    fn predictions_of_the_query_stream() {
        #[rustfmt::skip]
        let want: [&[f64]; 2] = [
            &[0.158281, 0.523332, -0.082054, -1.955317, -0.535199, 0.553548, 0.547315, -1.885566,
              0.118695, 0.489207, 0.014177, -1.975265, 0.759584, 0.212259, -0.645643, -1.70425],
            &[0.158281, 0.523332, -0.082054, -1.955317, -0.535199, 0.553548, 0.547315, -1.885566,
              -0.371442, 0.553417, 0.424635, -1.935431, 0.759584, 0.212259, -0.645643, -1.70425],
        ];
        for (bi_data, want) in [false, true].into_iter().zip(want) {
            for device in DEVICES {
                let training = pretraining_session(device, DType::F32, bi_data).expect("a session");
                let transformer = training.options().transformer.clone();
                let (objective, float) = (Objective::Hidden, DType::F32);
                let options = StepOptions { transformer, objective, accumulate: 1, float, optimizer: None };
                let mut session = Session::new(&config(), options, device, 0).expect("a session");
                copy_inputs(training, &mut session);
                session.exec().run_phase("forward").expect("a run");
                let query = *session.program().outputs.last().expect("query states");
                close(&session.exec().download_f64(query).expect("output"), want, 3e-6, "query stream");
            }
        }
    }

    /// Copies every parameter, memory and input that both programs have.
    fn copy_inputs(mut from: Session, to: &mut Session) {
        let (source, target) = (from.program().program.clone(), to.program().program.clone());
        for (id, desc) in source.iter().filter(|(_, desc)| desc.view.is_none()) {
            if !matches!(desc.role, Role::Param | Role::Memory | Role::Input) {
                continue;
            }
            let Some(other) = target.find(&desc.name) else { continue };
            let mut bytes = vec![0; desc.bytes()];
            from.exec().read(id, &mut bytes).expect("a read");
            to.exec().write(other, &bytes).expect("a write");
        }
    }

    #[test]
    fn optimizers() {
        let adam = [[0.490003, -0.240002], [0.480826, -0.237339], [0.478248, -0.236725]];
        let decayed = [[0.468337, -0.218357], [0.429292, -0.207019], [0.416484, -0.203960]];
        let gradients = [[0.1, -0.2], [0.3, 0.1], [-0.2, 0.05]];
        for (weight_decay, want) in [(0.0, adam), (0.01, decayed)] {
            for device in DEVICES {
                let mut b = Builder::new(DType::F32);
                let [param, grad, m, v] = ["param", "grad", "m", "v"].map(|name| b.param(name, [2]));
                let (square_norm, hyper) = (b.input("square_norm", [1]), b.input("hyper", [Adam::HYPER_LEN]));
                let (decays, grad_scale, lr_scale) = (true, 1.0, 1.0);
                let op = Adam { param, grad, m, v, square_norm, hyper, decays, grad_scale, lr_scale };
                b.push(Op::Adam(op)).expect("an op");
                let mut exec = device.open(b.finish().expect("a program").into()).expect("a device");
                exec.upload_f32(param, &[0.5, -0.25]).expect("an upload");
                for (step, (gradient, want)) in gradients.iter().zip(want).enumerate() {
                    exec.upload_f64(grad, gradient).expect("an upload");
                    let options = OptimizerOptions { weight_decay, ..optimizer() };
                    exec.upload_f64(hyper, &options.hyper(step as u64, 1.0)).expect("an upload");
                    exec.run(0..1).expect("a run");
                    close(&exec.download_f64(param).expect("a download"), &want, 1e-6, "parameter");
                }
            }
        }
    }
}
