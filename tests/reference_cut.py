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
    colours, moments, links = prepared._parts
    gaussians = np.empty((2, COMPONENTS, 11))
    kernel._learn(moments, colours, (trimap & 1).astype(bool), kernel._make_noise(np.uint64(0)), gaussians, True)
    return kernel._weigh(moments, colours, trimap, gaussians)[colours], links, gaussians


def edges(links):
    "Index of one end, of the other, and the link, by hand"
    h, w = links.shape[:2]
    i = np.arange(h * w).reshape(h, w)
    for k, (dy, dx) in enumerate(PAIRS):
        a, b = (i[:h - dy, :w - dx], i[dy:, dx:]) if dx >= 0 else (i[:h - dy, 1:], i[dy:, :-1])
        yield a.ravel(), b.ravel(), links.reshape(-1, 4)[a.ravel(), k].astype(int)


def energy(mask, trimap, odds, links):
    "Of a mask: the odds that it goes against and the links that it cuts"
    free, m = trimap > 1, mask.ravel()
    return int(np.abs(odds[free & (mask != (odds > 0))]).sum() + sum(c[m[a] != m[b]].sum() for a, b, c in edges(links)))


def least_energy(trimap, odds, links):
    "By SciPy, certain pixels tied to their terminal"
    n, much = trimap.size, 10**8
    net = np.where(trimap > 1, odds, np.where(trimap == 1, much, -much)).ravel()
    rows, columns, values = [np.full(n, n), np.arange(n)], [np.arange(n), np.full(n, n + 1)], [np.maximum(net, 0), np.maximum(-net, 0)]
    for a, b, c in edges(links):
        rows += [a, b]
        columns += [b, a]
        values += [c, c]
    graph = coo_array((np.concatenate(values).astype(np.int32), (np.concatenate(rows), np.concatenate(columns))), (n + 2, n + 2)).tocsr()
    return maximum_flow(graph, n, n + 1).flow_value
