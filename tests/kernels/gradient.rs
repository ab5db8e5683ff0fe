use half::{bf16, f16};

use super::{
    super::{
        naive::{Naive, bound, logits, narrow, state_of, widen},
        read_rows::read_rows,
    },
    *,
};

fn rows<'a>(
    width: usize,
    targets: &'a [i32],
    offset: usize,
    states: &'a [SoftmaxState],
    upstream: &'a [Upstream],
    transform: LogitTransform,
) -> RowGradients<'a> {
    RowGradients { width, targets, offset, states, upstream, transform }
}

/// The gradient of one row, by both ways.
fn gradient_of<F: Float>(z: &[F], target: i32, upstream: (f64, f64), transform: LogitTransform) -> Vec<f64> {
    let (states, upstream) = ([state_of(z, target)], [Upstream { log_prob: upstream.0, entropy: upstream.1 }]);
    let mut in_place = z.to_vec();
    rows(z.len(), &[target], 0, &states, &upstream, transform).overwrite(&mut in_place);
    let mut beside = vec![F::default(); z.len()];
    rows(z.len(), &[target], 0, &states, &upstream, transform).write(z, &mut beside);
    let (in_place, beside) = (widen(&in_place), widen(&beside));
    assert!(in_place.iter().zip(&beside).all(|(a, b)| a == b || a.is_nan() && b.is_nan()));
    in_place
}

/// `rounding` is half a unit in the last place of the dtype, `smallest` half the distance of its smallest numbers.
fn follows_the_definition<F: Float>(rounding: f64, smallest: f64) {
    let transforms = [LogitTransform::NONE, LogitTransform { scale: 0.25, softcap: Some(30.0) }];
    for width in [1, 33, 1024, 5003] {
        for ((g, h), transform) in
            [(0.7, 0.0), (-2.0, 0.0), (0.0, 0.3), (0.7, -0.3)].into_iter().zip(transforms.iter().cycle())
        {
            let z: Vec<F> = narrow(&logits(width, 15.0, 1.0));
            let wide = widen(&z);
            let target = width / 2;
            let naive = Naive::of(&wide, target);
            let bound = bound::<F>(width, 0.0);
            for (v, actual) in gradient_of(&z, target as i32, (g, h), *transform).into_iter().enumerate() {
                let (p, log_p) = (naive.probs[v], naive.log_prob + (wide[v] - wide[target]));
                let is_target = if v == target { 1.0 } else { 0.0 };
                let derivative =
                    transform.softcap.map_or(1.0, |softcap| 1.0 - (wide[v] / softcap).powi(2)) * transform.scale;
                let expected = (g * (is_target - p) - h * p * (log_p + naive.entropy)) * derivative;
                // relative errors of p, and of the depths, of which the largest is less than 50, in their difference
                let terms =
                    (g.abs() * (is_target + p) + h.abs() * p * (log_p.abs() + naive.entropy + 50.0)) * transform.scale;
                let allowed = 2.0 * bound * terms + rounding * expected.abs() + smallest;
                assert!((actual - expected).abs() <= allowed, "{v} of {width}: {actual:e} {expected:e}, {allowed:e}");
            }
        }
    }
}

#[test]
fn every_dtype_follows_the_definition() {
    follows_the_definition::<f32>(2f64.powi(-24), 1e-38);
    follows_the_definition::<f64>(2f64.powi(-53), 1e-300);
    follows_the_definition::<bf16>(2f64.powi(-8), 1e-38);
    follows_the_definition::<f16>(2f64.powi(-11), 2f64.powi(-25));
}

/// `1 − p` is 1e-20 or so: in f32 `p − 1` would be 0.
#[test]
fn the_target_does_not_cancel_near_certainty() {
    let mut z: Vec<f32> = narrow(&logits(3000, 4.0, -60.0));
    z[1234] = 0.0;
    let rest: f64 = widen(&z).iter().filter(|&&z| z < 0.0).map(|z| z.exp()).sum();
    let gradient = gradient_of(&z, 1234, (1.0, 0.0), LogitTransform::NONE);
    assert!((gradient[1234] - rest).abs() < 2.1e-6 * rest, "{:e} {rest:e}", gradient[1234]);
    let all: f64 = gradient.iter().sum();
    assert!(all.abs() < 4.2e-6 * rest, "the gradient of a function that does not see offsets states to 0: {all:e}");
}

#[test]
fn an_offset_in_common_changes_nothing() {
    let z: Vec<f32> = (0..2000).map(|i| (i * 7919 % 2000) as f32 / 256.0).collect();
    let far: Vec<f32> = z.iter().map(|z| z + 16_384.0).collect(); // exact
    for upstream in [(1.0, 0.0), (0.5, 0.5)] {
        assert_eq!(
            gradient_of(&z, 3, upstream, LogitTransform::NONE),
            gradient_of(&far, 3, upstream, LogitTransform::NONE)
        );
    }
}

#[test]
fn rows_without_a_gradient_are_0_whatever_they_hold() {
    let width = 70;
    let states = [state_of(&vec![f32::NAN; width], 0); 3];
    let (targets, flows) = ([IGNORED, 5, i32::MAX], Upstream { log_prob: 1.0, entropy: 1.0 });
    let nothing = Upstream { log_prob: 0.0, entropy: -0.0 };
    let upstream = [flows, nothing, nothing];
    let mut z = vec![f32::NAN; 3 * width];
    rows(width, &targets, 0, &states, &upstream, LogitTransform::NONE).overwrite(&mut z);
    assert!(z.iter().all(|z| z.to_bits() == 0));

    let mut gradient = vec![7.0; 3 * width]; // not zeros, to see that they are not touched
    rows(width, &targets, 0, &states, &upstream, LogitTransform::NONE).write(&vec![f32::NAN; 3 * width], &mut gradient);
    assert!(gradient.iter().all(|gradient| *gradient == 7.0));
}

#[test]
fn rows_without_a_distribution_or_a_target_are_nan() {
    let z: Vec<f32> = narrow(&logits(70, 3.0, 0.0));
    let all_nan = |gradient: Vec<f64>| gradient.iter().all(|gradient| gradient.is_nan());
    for odd in [f32::NAN, f32::INFINITY] {
        let mut z = z.clone();
        z[40] = odd;
        assert!(all_nan(gradient_of(&z, 3, (1.0, 0.0), LogitTransform::NONE)));
        assert!(all_nan(gradient_of(&z, 3, (0.0, 1.0), LogitTransform::NONE)));
    }
    assert!(all_nan(gradient_of(&[f32::NEG_INFINITY; 70], 3, (1.0, 1.0), LogitTransform::NONE)));
    assert!(all_nan(gradient_of(&z, i32::MAX, (1.0, 0.0), LogitTransform::NONE)));
    let entropy_alone = gradient_of(&z, i32::MAX, (0.0, 1.0), LogitTransform::NONE);
    assert_eq!(entropy_alone[4..], gradient_of(&z, 3, (0.0, 1.0), LogitTransform::NONE)[4..]);
}

#[test]
fn an_entry_of_minus_infinity_gets_0() {
    for transform in [LogitTransform::NONE, LogitTransform { scale: 1.0, softcap: Some(30.0) }] {
        let mut z: Vec<f32> = narrow(&logits(70, 3.0, 0.0));
        z[40] = f32::NEG_INFINITY;
        z[69] = f32::NEG_INFINITY;
        let gradient = gradient_of(&z, 3, (1.0, 1.0), transform);
        assert_eq!((gradient[40], gradient[69]), (0.0, 0.0));
        assert!(gradient.iter().all(|gradient| gradient.is_finite()));
    }
    let mut z = vec![0.0f32; 70];
    z[3] = f32::NEG_INFINITY;
    assert_eq!(gradient_of(&z, 3, (1.0, 1.0), LogitTransform::NONE)[3], 1.0);
}

/// Each of two parts of the vocabulary, and as many tasks as eight threads ask for: the same bits.
#[test]
fn parts_make_the_whole() {
    let width = 30_011;
    let z: Vec<f32> = narrow(&logits(2 * width, 6.0, 0.0));
    let targets = [17, 29_999];
    let mut states = [SoftmaxState::EMPTY; 2];
    read_rows(&z, width, &targets, 0, true, &mut states);
    let upstream = [Upstream { log_prob: 1.0, entropy: 0.5 }; 2];
    let mut whole = z.clone();
    rows(width, &targets, 0, &states, &upstream, LogitTransform::NONE).overwrite(&mut whole);

    for (from, to) in [(0, 9000), (9000, width)] {
        let part = |row: &[f32]| row[from..to].to_vec();
        let mut z: Vec<f32> = z.chunks(width).flat_map(part).collect();
        rows(to - from, &targets, from, &states, &upstream, LogitTransform::NONE).overwrite(&mut z);
        assert_eq!(z, whole.chunks(width).flat_map(part).collect::<Vec<f32>>());
    }
    rayon::ThreadPoolBuilder::new().num_threads(8).build().unwrap().install(|| {
        assert!(segment_width(width, &targets) < width);
        let mut segments = z.clone();
        rows(width, &targets, 0, &states, &upstream, LogitTransform::NONE).overwrite(&mut segments);
        assert_eq!(segments, whole);
    });
}
