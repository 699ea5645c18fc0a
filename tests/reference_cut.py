"GrabCut's energy by hand, and its minimum by SciPy's maximum flow"
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_flow

import locloc.grabcut as kernel
from locloc.grabcut import COMPONENTS, PreparedPicture

PAIRS = (0, 1), (1, 0), (1, 1), (1, -1) # E, S, SE, SW


def odds_and_links(picture, trimap, bits=6):
    "What the kernel cuts with: (H, W) whole-number odds, (H, W, 4) links, (2, 5, 11) Gaussians"
    prepared = PreparedPicture(picture, bits)
    colours, moments = prepared._colours, prepared._moments
    gaussians = np.empty((2, COMPONENTS, 11))
    kernel._learn(moments, colours, (trimap & 1).astype(bool), kernel._make_noise(np.uint64(0)), gaussians, True)
    return kernel._log_odds(moments, colours, trimap, gaussians)[colours], prepared._links, gaussians


def edges(links):
    "Index of one end, of the other, and the link, by hand"
    H, W = links.shape[:2]
    index = np.arange(H * W).reshape(H, W)
    for k, (down, right) in enumerate(PAIRS):
        here = index[:H - down, max(-right, 0):W - max(right, 0)].ravel()
        there = index[down:, max(right, 0):W - max(-right, 0)].ravel()
        yield here, there, links.reshape(-1, 4)[here, k].astype(int)


def energy(mask, trimap, odds, links):
    "Of a mask: the odds that it goes against and the links that it cuts"
    against = (trimap > 1) & (mask != (odds > 0))
    total = np.abs(odds[against]).sum()
    side = mask.ravel()
    for here, there, link in edges(links):
        total += link[side[here] != side[there]].sum()
    return int(total)


def least_energy(trimap, odds, links):
    "By SciPy, certain pixels tied to their terminal"
    n, much = trimap.size, 10**8
    source, sink = n, n + 1
    certain = np.where(trimap == 1, much, -much)
    net = np.where(trimap > 1, odds, certain).ravel()
    starts, ends, capacities = [np.full(n, source)], [np.arange(n)], [np.maximum(net, 0)]
    starts.append(np.arange(n))
    ends.append(np.full(n, sink))
    capacities.append(np.maximum(-net, 0))
    for here, there, link in edges(links):
        starts += [here, there]
        ends += [there, here]
        capacities += [link, link]
    places = np.concatenate(starts), np.concatenate(ends)
    graph = coo_array((np.concatenate(capacities).astype(np.int32), places), (n + 2, n + 2)).tocsr()
    return maximum_flow(graph, source, sink).flow_value
