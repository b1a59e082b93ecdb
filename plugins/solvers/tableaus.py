"""The explicit Runge-Kutta methods up to order 5, as data."""

from __future__ import annotations

from odeframe_plugins.solvers.tableau import Tableau, rational_rows, rationals

#: Forward Euler.
EULER = Tableau(a=(), b=(1,), order=1)

#: Runge's midpoint rule (Runge 1895).
MIDPOINT = Tableau(rational_rows("1/2"), rationals("0 1"), order=2)

#: The explicit trapezoidal rule (Heun 1900), the two-stage method with the best preservation of strong stability.
HEUN = Tableau(rational_rows("1"), rationals("1/2 1/2"), order=2)

#: The two-stage method of least error bound (Ralston 1962).
RALSTON = Tableau(rational_rows("2/3"), rationals("1/4 3/4"), order=2)

#: Preserves the strong stability of Euler up to the same step (Shu, Osher 1988).
SSPRK3 = Tableau(rational_rows("1\n 1/4 1/4"), rationals("1/6 1/6 2/3"), order=3)

#: The classical method (Kutta 1901).
RK4 = Tableau(rational_rows("1/2\n 0 1/2\n 0 0 1"), rationals("1/6 1/3 1/3 1/6"), order=4)

#: The 3/8 rule (Kutta 1901).
RK38 = Tableau(rational_rows("1/3\n -1/3 1\n 1 -1 1"), rationals("1/8 3/8 3/8 1/8"), order=4)

#: Bogacki, Shampine 1989, A 3(2) pair of Runge-Kutta formulas.
BOSH3 = Tableau(
    a=rational_rows("1/2\n 0 3/4\n 2/9 1/3 4/9"),
    b=rationals("2/9 1/3 4/9 0"),
    order=3,
    b_error=rationals("-5/72 1/12 1/9 -1/8"),
    b_error_order=2,
)
#: The cubic Hermite interpolant, as weights: coefficients of theta, theta^2, ... in b_i(theta), a row a stage.
BOSH3_DENSE = rational_rows("1 -4/3 5/9\n 0 1 -2/3\n 0 4/3 -8/9\n 0 -1 1")

#: Dormand, Prince 1980, A family of embedded Runge-Kutta formulae.
DOPRI5 = Tableau(
    a=rational_rows("""
        1/5
        3/40 9/40
        44/45 -56/15 32/9
        19372/6561 -25360/2187 64448/6561 -212/729
        9017/3168 -355/33 46732/5247 49/176 -5103/18656
        35/384 0 500/1113 125/192 -2187/6784 11/84
    """),
    b=rationals("35/384 0 500/1113 125/192 -2187/6784 11/84 0"),
    order=5,
    b_error=rationals("71/57600 0 -71/16695 71/1920 -17253/339200 22/525 -1/40"),
    b_error_order=4,
)
#: Order 4: Shampine 1986, Some practical Runge-Kutta formulas.
DOPRI5_DENSE = rational_rows("""
    1 -8048581381/2820520608 8663915743/2820520608 -12715105075/11282082432
    0 0 0 0
    0 131558114200/32700410799 -68118460800/10900136933 87487479700/32700410799
    0 -1754552775/470086768 14199869525/1410260304 -10690763975/1880347072
    0 127303824393/49829197408 -318862633887/49829197408 701980252875/199316789632
    0 -282668133/205662961 2019193451/616988883 -1453857185/822651844
    0 40617522/29380423 -110615467/29380423 69997945/29380423
""")

#: Tsitouras 2011, Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption.
TSIT5 = Tableau(
    a=rational_rows("""
        0.161
        -0.008480655492356989 0.335480655492357
        2.8971530571054935 -6.359448489975075 4.3622954328695815
        5.325864828439257 -11.748883564062828 7.4955393428898365 -0.09249506636175525
        5.86145544294642 -12.92096931784711 8.159367898576159 -0.071584973281401 -0.028269050394068383
        0.09646076681806523 0.01 0.4798896504144996 1.379008574103742 -3.290069515436081 2.324710524099774
    """),
    b=rationals("""
        0.09646076681806523 0.01 0.4798896504144996 1.379008574103742 -3.290069515436081 2.324710524099774 0
    """),
    order=5,
    b_error=rationals("""
        -0.00178001105222577714 -0.0008164344596567469 0.007880878010261995 -0.1447110071732629
        0.5823571654525552 -0.45808210592918697 1/66
    """),
    b_error_order=4,
)
#: Order 4, from the same paper.
TSIT5_DENSE = rational_rows("""
    1 -2.763706197274826 2.9132554618219126 -1.0530884977290216
    0 0.1317 -0.2234 0.1017
    0 3.9302962368947516 -5.941033872131505 2.490627285651253
    0 -12.411077166933676 30.33818863028232 -16.548102889244902
    0 37.50931341651104 -88.1789048947664 47.37952196281928
    0 -27.896526289197286 65.09189467479366 -34.87065786149661
    0 1.5 -4 2.5
""")
