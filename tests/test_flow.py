"""Optical flow of clips whose motion is known."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("cv2")

import moving

from faststyle import flow
from faststyle.errors import ImageError

H = 96
W = 128


def test_dis_finds_a_pan() -> None:
    step = (3, 2)
    before, now = moving.pan(moving.texture(200, 200), H, W, 2, step)
    back = flow.find_flow(now, before)
    visible = flow.find_visible(back, flow.find_flow(before, now))
    expected = moving.pan_flow(H, W, step, 1)
    inside = np.s_[: H - 8, : W - 8]
    assert visible[inside].mean() > 0.95
    assert np.abs(back - expected)[inside].mean() < 0.1
    assert flow.is_pair(visible)
    moved = flow.warp(before.astype(np.float32), back)
    assert np.abs(moved - now)[inside].mean() < 1


def test_frames_on_both_sides_of_a_cut_are_no_pair() -> None:
    before = moving.texture(H, W)
    now = moving.texture(H, W, seed=5)
    back = flow.find_flow(now, before)
    assert not flow.is_pair(flow.find_visible(back, flow.find_flow(before, now)))


def test_an_object_that_enters_a_still_place_is_what_moves() -> None:
    near = 255 - moving.texture(48, 64, seed=1)
    frames = moving.enter(near, moving.texture(H, W), H, W, 14, 4, begin=2)
    assert all((frame == frames[0]).all() for frame in frames[:3])
    exact = moving.enter_flow(near, H, W, 12, 4, begin=2)
    assert (exact != 0).any(-1).sum() == 48 * 40  # the part that is seen
    # The exact flow takes what was seen of the object before to where it is, and leaves the rest.
    moved = flow.warp(frames[11].astype(np.float32), exact)
    same = (moved == frames[12]).all(-1)
    hidden = np.zeros((H, W), bool)
    hidden[24:72, :4] = True  # was outside
    np.testing.assert_array_equal(~same & ~hidden, False)
    back = flow.find_flow(frames[12], frames[11])
    assert np.abs(back[:, 72:]).max() < 0.1
    assert np.median(back[32:64, 8:32, 0]) == pytest.approx(-4, abs=0.2)


def test_dis_finds_what_a_moving_square_uncovers() -> None:
    before, now = moving.parallax(
        255 - moving.texture(H, W, seed=1), moving.texture(H, 2 * W), H, W, 2, (8, 0)
    )
    back = flow.find_flow(now, before)
    visible = flow.find_visible(back, flow.find_flow(before, now))
    top = (H - moving.SQUARE) // 2
    first = moving.SQUARE // 4
    assert visible[top + 8 : top + 56, first + 1 : first + 7].mean() < 0.2
    assert visible[:, first + moving.SQUARE + 24 :].mean() > 0.95


def test_pictures_that_are_too_small_for_motion_are_refused() -> None:
    small = np.zeros((31, 64, 3), np.uint8)
    with pytest.raises(ImageError, match="31x64 pixels are too few to find motion"):
        flow.find_flow(small, small)
