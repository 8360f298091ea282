"""The part of EECS 498/598's package that notebooks of this subject import."""
