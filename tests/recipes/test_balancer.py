import torch

from zoo.recipes.balancer import Balancer


def losses_of(output, scale=1.0):
    """Two losses that pull in perpendicular directions, the second `scale` times as hard."""
    return {"mel": output[:, 0].sum(), "wave": scale * output[:, 1].sum()}


def test_shares_of_the_gradient_are_those_of_the_weights_whatever_the_losses_scales():
    output = torch.zeros(4, 2, requires_grad=True)
    gradient = Balancer(("mel", "wave"))(losses_of(output, 1e4), {"mel": 1.0, "wave": 3.0}, output)
    torch.testing.assert_close(gradient, torch.tensor([0.25, 0.75]).expand(4, 2))


def test_a_loss_that_is_not_there_yet_leaves_its_share_to_the_others():
    output = torch.zeros(4, 2, requires_grad=True)
    losses = losses_of(output)
    del losses["wave"]
    gradient = Balancer(("mel", "wave"))(losses, {"mel": 1.0}, output)
    torch.testing.assert_close(gradient, torch.tensor([1.0, 0.0]).expand(4, 2))


def test_norms_are_running_means_so_that_one_quiet_batch_stays_quiet():
    output = torch.zeros(4, 2, requires_grad=True)
    balancer, weights = Balancer(("mel", "wave"), decay=0.9), {"mel": 1.0, "wave": 1.0}
    for _ in range(20):
        balancer(losses_of(output), weights, output)
    gradient = balancer(losses_of(output, 0.01), weights, output)
    assert gradient[0, 1] < 0.02 < gradient[0, 0]


def test_a_restored_balancer_goes_on_where_the_saved_one_was():
    output = torch.zeros(4, 2, requires_grad=True)
    balancer, restored, weights = Balancer(("mel", "wave")), Balancer(("mel", "wave")), {"mel": 1.0, "wave": 1.0}
    balancer(losses_of(output, 5.0), weights, output)
    restored.load_state_dict(balancer.state_dict())
    mine, other = (b(losses_of(output), weights, output) for b in (balancer, restored))
    assert torch.equal(mine, other)
