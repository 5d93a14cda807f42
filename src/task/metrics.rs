//! Scores over all examples; padding never counts, because it never gets here.

use std::collections::BTreeMap;

/// Scores by name.
pub type Scores = BTreeMap<String, f64>;

/// Index of the largest value, the first of equals; 0 for none.
pub fn argmax(values: &[f32]) -> usize {
    let better = |best: usize, at: usize| if values[at] > values[best] { at } else { best };
    (1..values.len()).fold(0, better)
}

/// Share of predictions that are right.
pub fn accuracy(predicted: &[usize], gold: &[usize]) -> f64 {
    let right = predicted.iter().zip(gold).filter(|(a, b)| a == b).count();
    right as f64 / gold.len().max(1) as f64
}

/// F1 of class `positive`; 0 when it is neither predicted nor there.
pub fn f1(predicted: &[usize], gold: &[usize], positive: usize) -> f64 {
    let count = |wanted: &dyn Fn(usize, usize) -> bool| {
        predicted.iter().zip(gold).filter(|&(&p, &g)| wanted(p, g)).count() as f64
    };
    let hits = count(&|p, g| p == positive && g == positive);
    let misses = count(&|p, g| (p == positive) != (g == positive));
    if hits == 0.0 { 0.0 } else { 2.0 * hits / (2.0 * hits + misses) }
}

/// Matthews' correlation of two classes (0 and not 0); 0 where one side has one class only.
pub fn matthews(predicted: &[usize], gold: &[usize]) -> f64 {
    let bits = |all: &[usize]| all.iter().map(|&class| f64::from(u8::from(class != 0))).collect::<Vec<_>>();
    pearson(&bits(predicted), &bits(gold)).unwrap_or(0.0)
}

/// Pearson's correlation; `None` where one side does not vary.
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let n = a.len().min(b.len());
    if n < 2 {
        return None;
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / n as f64;
    let (mean_a, mean_b) = (mean(&a[..n]), mean(&b[..n]));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x - mean_a, y - mean_b);
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    let bottom = (aa * bb).sqrt();
    (bottom > 0.0).then(|| (ab / bottom).clamp(-1.0, 1.0))
}

/// Spearman's correlation: Pearson's of ranks, equals share their mean rank.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    pearson(&ranks(a), &ranks(b))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    while first < order.len() {
        let same = order[first..].iter().take_while(|&&i| values[i] == values[order[first]]).count();
        for &i in &order[first..first + same] {
            ranks[i] = first as f64 + (same as f64 - 1.0) / 2.0;
        }
        first += same;
    }
    ranks
}

/// Mean of minus the logarithm of the right class's softmax.
pub fn cross_entropy(logits: &[f32], class: usize) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - most).exp()).sum();
    sum.ln() - f64::from(logits[class] - most)
}

/// Entities of a sentence: class, first word, one beyond the last. Tags are `B-x`, `I-x`, `E-x`, `S-x` or `O`; an `I`
/// that continues nothing begins an entity, as `conlleval` has it.
pub fn entities(tags: &[&str]) -> Vec<(String, usize, usize)> {
    let mut all: Vec<(String, usize, usize)> = vec![];
    let mut open: Option<(String, usize)> = None;
    for (i, tag) in tags.iter().chain([&"O"]).enumerate() {
        let (prefix, class) = tag.split_once('-').unwrap_or((if *tag == "O" { "O" } else { "I" }, tag));
        let continues = matches!(prefix, "I" | "E" | "M") && open.as_ref().is_some_and(|(c, _)| c == class);
        if !continues {
            if let Some((class, first)) = open.take() {
                all.push((class, first, i));
            }
            open = (prefix != "O").then(|| (class.to_owned(), i));
        }
        if matches!(prefix, "E" | "S")
            && let Some((class, first)) = open.take()
        {
            all.push((class, first, i + 1));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        let (p, g) = ([0, 1, 1, 0, 1, 1], [0, 1, 0, 1, 1, 1]);
        assert!((accuracy(&p, &g) - 4.0 / 6.0).abs() < 1e-12);
        assert!((f1(&p, &g, 1) - 6.0 / 8.0).abs() < 1e-12);
        // (tp tn - fp fn) / sqrt(...) = (3*1 - 1*1) / sqrt(4*4*2*2)
        assert!((matthews(&p, &g) - 0.25).abs() < 1e-12);
        assert_eq!((matthews(&[1, 1], &[0, 1]), f1(&[0], &[0], 1), accuracy(&[], &[])), (0.0, 0.0, 0.0));
    }
    #[test]
    fn correlations() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 100.0]);
        // By Python's statistics.correlation, of values and of ranks.
        assert!((pearson(&a, &b).unwrap() - 0.7177494392584696).abs() < 1e-12, "{:?}", pearson(&a, &b));
        assert!((spearman(&a, &b).unwrap() - 0.8).abs() < 1e-12);
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [2.5, 0.0, 2.5, 1.0]);
        assert_eq!(pearson(&[1.0, 1.0], &[1.0, 2.0]), None);
    }
    #[test]
    fn losses() {
        assert!((cross_entropy(&[0.0, 0.0], 1) - 2f64.ln()).abs() < 1e-12);
        assert!((cross_entropy(&[1000.0, 0.0], 1) - 1000.0).abs() < 1e-9);
        assert_eq!((argmax(&[1.0, 3.0, 3.0]), argmax(&[])), (1, 0));
    }
    #[test]
    fn entities_of_every_scheme() {
        let entity = |class: &str, a, b| (class.to_owned(), a, b);
        assert_eq!(
            entities(&["B-P", "I-P", "O", "I-L", "B-L"]),
            [entity("P", 0, 2), entity("L", 3, 4), entity("L", 4, 5)]
        );
        assert_eq!(entities(&["S-P", "B-P", "E-P", "I-Q"]), [entity("P", 0, 1), entity("P", 1, 3), entity("Q", 3, 4)]);
        assert_eq!(entities(&[]), []);
    }
}
