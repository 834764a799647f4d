"""Shortest paths through a maze, and the evaluation task that they define."""

from collections import deque
from dataclasses import dataclass

import numpy as np

MazeMap = list[list[int | str]]
Cell = tuple[int, int]


@dataclass(frozen=True)
class Planner:
    """Shortest paths between the free cells of a maze.

    Attributes:
        cells: the free cells (row, column), row by row.
        distances: [goal, cell] steps between cell and goal; -1 where there is no path.
        following: [goal, cell] the cell to go to next; the goal itself at the goal.
    """

    cells: tuple[Cell, ...]
    distances: np.ndarray
    following: np.ndarray

    @classmethod
    def of(cls, maze_map: MazeMap) -> "Planner":
        """Plan for a map whose walls are 1 and whose outermost cells are all walls."""
        cells = tuple(
            (row, column)
            for row, line in enumerate(maze_map)
            for column, content in enumerate(line)
            if content != 1
        )
        index = {cell: number for number, cell in enumerate(cells)}
        distances = np.full((len(cells), len(cells)), -1)
        following = np.tile(np.arange(len(cells)), (len(cells), 1))
        for goal, start in enumerate(cells):
            distances[goal, goal] = 0
            queue = deque([start])
            while queue:
                row, column = queue.popleft()
                here = index[row, column]
                for step in ((-1, 0), (0, -1), (0, 1), (1, 0)):
                    there = index.get((row + step[0], column + step[1]))
                    if there is not None and distances[goal, there] < 0:
                        distances[goal, there] = distances[goal, here] + 1
                        following[goal, there] = here
                        queue.append(cells[there])
        return cls(cells, distances, following)

    def farthest(self) -> tuple[int, int]:
        """The numbers of the two free cells that are farthest apart; the first such pair."""
        start, goal = np.unravel_index(int(np.argmax(self.distances)), self.distances.shape)
        return int(start), int(goal)


def evaluation_map(maze_map: MazeMap) -> MazeMap:
    """The same maze with the evaluation's start 'r' and goal 'g' at its two farthest cells."""
    planner = Planner.of(maze_map)
    start, goal = (planner.cells[number] for number in planner.farthest())
    marked: MazeMap = [[1 if content == 1 else 0 for content in line] for line in maze_map]
    marked[start[0]][start[1]] = "r"
    marked[goal[0]][goal[1]] = "g"
    return marked
