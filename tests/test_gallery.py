"""The gallery draws every optimizer, and the page says what the pictures show."""

import importlib.util
import json
import pathlib
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from benchmarks.quality.optimizers import every_optimizer


DOCS = pathlib.Path(__file__).parents[1] / "docs"
PICTURES = DOCS / "pictures"
PAGE = DOCS / "gallery.md"


@pytest.fixture(scope="module")
def gallery():
    spec = importlib.util.spec_from_file_location("gallery", PICTURES / "landscapes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def numbers():
    return json.loads((PICTURES / "landscapes.json").read_text())


def texts(svg):
    """All pieces of text, which are saved as text."""
    root = ElementTree.parse(svg).getroot()
    return [x.text for x in root.iter("{http://www.w3.org/2000/svg}text")]


def test_every_optimizer_has_its_panels(gallery, numbers):
    drawn = [label for x in gallery.FAMILIES.values() for label in x]
    assert len(drawn) == len(set(drawn))
    assert list(numbers) == drawn
    assert set(drawn) - {"SGD, momentum 0.9", "AdamW, two points"} == every_optimizer()
    for page, contenders in gallery.FAMILIES.items():
        for half, landscapes in gallery.HALVES.items():
            svg = PICTURES / f"landscapes-{page}-{half}.svg"
            shown = texts(svg)
            assert shown[0] == landscapes[0] and set(contenders) <= set(shown)
            captions = [x for x in shown if re.fullmatch(r"loss .*|\d+ steps?", x)]
            assert len(captions) == len(contenders) * len(landscapes)
            assert svg.stat().st_size < 500_000
            for label in contenders:
                for name in landscapes:
                    steps = numbers[label][name]["steps"]
                    assert steps is None or re.search(rf"\b{steps} step", str(captions))


def test_draws_two_optimizers(gallery, tmp_path, capsys):
    arguments = ["--optimizers", "SGD", "Muon", "--steps", "20"]
    results = gallery.main([*arguments, "--output", str(tmp_path)])
    assert [*results] == ["SGD", "Muon"]
    assert "| SGD | " in capsys.readouterr().out
    for points, found in zip((1, 2), results.values()):
        assert found.keys() == gallery.LANDSCAPES.keys()
        for name, result in found.items():
            assert result.path.shape == (points, 21, 2)
            starts = gallery.LANDSCAPES[name].starts[:points]
            np.testing.assert_allclose(result.path[:, 0], starts, rtol=1e-6)
            assert result.number in gallery.RATES and np.isfinite(result.loss)
    written = {x.name for x in tmp_path.iterdir()}
    halves = {
        f"landscapes-{x}-{y}.svg" for x in ("sgd", "matrices") for y in gallery.HALVES
    }
    assert written == halves | {f"landscapes.{x}" for x in ("svg", "json", "md")}
    for name in halves:
        text = (tmp_path / name).read_text()
        assert "#ffffff" not in text and "fill: none" in text  # no background
        assert ("SGD" if "sgd" in name else "Muon") in texts(tmp_path / name)


def test_path_is_that_of_gradient_descent(gallery):
    found = gallery.results_of(gallery.FAMILIES["sgd"]["SGD"], 20)["valley"]
    turn, centre = np.asarray(gallery.TURN), np.asarray(gallery.CENTRE)
    hessian = turn.T @ np.diag([1.0, 100.0]) @ turn
    point = np.array(gallery.LANDSCAPES["valley"].starts[0])
    for shown in found.path[0]:
        np.testing.assert_allclose(shown, point, rtol=1e-4, atol=1e-4)
        point = point - found.number * hessian @ (point - centre)


def test_best_number(gallery):
    """Staying in the square comes before arriving, and arriving before speed."""
    landscape = gallery.LANDSCAPES["valley"]
    fast, slow, never = np.full(100, 1e-4), np.full(100, 1e-4), np.full(100, 1.0)
    fast[:20] = slow[:40] = never[0] = 5.0
    losses = np.stack([fast, never, slow, fast])[:, None].repeat(5, axis=1)
    paths = np.broadcast_to(landscape.minima[0], (4, 5, 100, 2)).copy()
    paths[0, 0, 3] = 100.0
    sgd = gallery.FAMILIES["sgd"]["SGD"]
    best = lambda *chosen: gallery.best(
        sgd, landscape, paths[list(chosen)], losses[list(chosen)]
    )
    assert (best(0, 1, 2, 3).number, best(0, 1, 2, 3).steps) == (gallery.RATES[3], 20)
    assert (best(0, 1, 2).number, best(0, 1, 2).steps) == (gallery.RATES[2], 40)
    found = best(0, 1)
    assert found.number == gallery.RATES[1] and found.steps is None
    assert not found.arrived and found.loss == 1.0


def test_page_shows_all_pictures():
    text = PAGE.read_text()
    shown = {path: alt for alt, path in re.findall(r"!\[([^]]*)\]\(([^)]*)\)", text)}
    drawn = {f"pictures/{x.name}" for x in PICTURES.glob("landscapes*.svg")}
    assert set(shown) == drawn | {"pictures/schedules.svg"}
    assert all(len(alt) > 20 for alt in shown.values())
    linked = set(re.findall(r"\]\((optimizers/\w[\w-]*\.md)", text))
    pages = {f"optimizers/{x.name}" for x in (DOCS / "optimizers").glob("*.md")}
    assert pages <= linked


def test_page_says_what_the_numbers_show(gallery, numbers):
    text = " ".join(PAGE.read_text().split())

    def steps(name, landscape="valley"):
        return numbers[name][landscape]["steps"]

    def arrived(name):
        return {x for x, found in numbers[name].items() if found["arrived"]}

    assert "there in a third of the steps" in text
    assert 0.25 < steps("SGD, momentum 0.9") / steps("SGD") < 0.4
    assert f"knows the lowest loss, needs {steps('PolyakSGD')}." in text
    for landscape in ("valley", "Himmelblau"):
        assert steps("NAdam", landscape) < 0.7 * steps("Adam", landscape)
    assert f"it needs {steps('Adagrad', 'Himmelblau')} steps" in text
    assert "it goes to the minimum in 16 steps" in text
    for name in ("ScheduleFreeAdamW", "ScheduleFreeSGD"):
        assert steps(name, "Himmelblau") == 16
    for name in ("PolyakSGD", "Rprop"):
        assert "Rastrigin" in arrived(name)
    for name in ("AMSGrad", "Adamax", "Adagrad"):
        assert "Rosenbrock" not in arrived(name)
    for name in ("Adam", "NAdam", "Adamax"):  # nothing decays
        assert numbers[name] == numbers[f"{name}W"]
    kin = [
        x
        for page in ("adam", "adam-divisors", "adam-means")
        for x in gallery.FAMILIES[page]
    ]
    assert {x for x in kin if "Rastrigin" in arrived(x)} == {"AdaBelief", "StableAdamW"}
    assert sum(len(arrived(x)) for x in ("Lion", "Signum", "SignSGD")) < 9
    rates = [
        numbers[x][landscape]["number"]
        for x in ("Prodigy", "DAdaptAdamW", "DoG", "DoWG")
        for landscape in gallery.LANDSCAPES
    ]
    near = sum(0.5 <= x <= 2 for x in rates)
    assert f"{near} of the {len(rates)} best lie between 0.5 and 2" in text
    for name in ("MoMo", "MoMoAdam"):
        assert arrived(name) == gallery.LANDSCAPES.keys()
    noisy = {name: found["noisy valley"]["loss"] for name, found in numbers.items()}
    free = max(noisy["ScheduleFreeAdamW"], noisy["ScheduleFreeSGD"])
    assert free < 0.5 * min(noisy["AdamW"], noisy["SGD"])
    for name in ("GaussNewton", "LevenbergMarquardt", "NewtonCG"):
        assert steps(name) == 1
    for name in ("LBFGS", "BFGS", "SSBFGS", "SSBroyden"):
        assert 4 <= steps(name) <= 6
    one_size = "Lion Signum SignSGD LARS LAMB Fromage Muon NorMuon Scion".split()
    orange = sum(len(gallery.LANDSCAPES) - len(arrived(x)) for x in one_size)
    assert f"of the {orange} orange panels of `Lion`" in text


def test_falling_rates(gallery):
    """The last steps are the shortest, and what has no rate stays as it is."""
    sgd = gallery.FAMILIES["signs"]["SignSGD"]
    path = gallery.results_of(gallery.falling(sgd, 20), 20)["valley"].path[0]
    lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
    assert np.all(np.diff(lengths) < 0) and lengths[-1] < 0.02 * lengths[0]
    bfgs = gallery.FAMILIES["curvature"]["BFGS"]
    assert gallery.falling(bfgs, 20) is bfgs
